//! What the connection test asks of Graph: which rights there are, and the smallest reads that show
//! whether a source can be read.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Answer, Call, Graph, Options};
use super::{directory, risk};
use crate::http::SignedIn;
use crate::pipeline::{Fault, Interrupt};
use crate::seams::Deadline;

/// A right of an application: its name, and the id of the app role.
pub type Right = (&'static str, &'static str);

/// Microsoft Graph's own application.
pub const GRAPH_APP: &str = "00000003-0000-0000-c000-000000000000";

/// Azure AD Graph's, which Microsoft has switched off.
const AZURE_AD_GRAPH: &str = "Windows Azure Active Directory";

/// To see licences, and what was granted, for the test; and the members of groups that hide them.
pub const OPTIONAL: [Right; 3] = [
    ("LicenseAssignment.Read.All", "e2f98668-2877-4f38-a2f4-8202e0717aa1"),
    ("Application.Read.All", "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30"),
    ("Member.Read.Hidden", "658aa5d8-239f-45c4-aa12-864f4fc7e490"),
];

/// What a stream needs.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// The stream.
    pub stream: &'static str,
    /// The least right.
    pub least: Right,
    call: Call,
    path: &'static str,
    query: &'static [(&'static str, &'static str)],
}

impl Needed {
    /// The rights of which one is enough, the least first.
    pub fn enough(&self) -> &'static [&'static str] {
        self.call.needs
    }
}

const NOW: &[(&str, &str)] = &[("$deltatoken", "latest"), ("$select", "id")];
const ONE: &[(&str, &str)] = &[("$top", "1")];

/// What the streams of a source need.
pub fn needed(source: &str) -> &'static [Needed] {
    match source {
        risk::ENTRA_RISK => RISK,
        directory::DIRECTORY => DIRECTORY,
        _ => &[],
    }
}

static RISK: &[Needed] = &[
    Needed {
        stream: "risk-detections",
        least: ("IdentityRiskEvent.Read.All", "6e472fd1-ad78-48da-a0f0-97ab2c6b769e"),
        call: risk::DETECTIONS,
        path: "identityProtection/riskDetections",
        query: ONE,
    },
    Needed {
        stream: "risky-users",
        least: ("IdentityRiskyUser.Read.All", "dc5007c0-2d7d-4c42-879c-2dab87571379"),
        call: risk::USERS,
        path: "identityProtection/riskyUsers",
        query: ONE,
    },
];

const OF_GROUPS: Right = ("GroupMember.Read.All", "98830695-27a2-44f7-8c18-0c3ebc9698f6");

static DIRECTORY: &[Needed] = &[
    Needed {
        stream: "users",
        least: ("User.Read.All", "df021288-bdef-4463-88db-98f22de89214"),
        call: directory::call("the users", directory::READ_USERS),
        path: "users/delta",
        query: NOW,
    },
    Needed {
        stream: "groups",
        least: OF_GROUPS,
        call: directory::call("the groups", directory::READ_GROUPS),
        path: "groups/delta",
        query: NOW,
    },
];

/// Asks Graph.
#[derive(Debug)]
pub struct Probe(Graph);

/// What was granted to an application, as Graph lists it.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The ids of Graph's app roles.
    pub roles: Vec<String>,
    /// How many rights of Azure AD Graph are left over.
    pub left_over: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Assignment {
    app_role_id: String,
    #[serde(default)]
    resource_display_name: String,
}

impl Probe {
    /// With a token of its own.
    pub fn new(options: Options) -> Self {
        Self(Graph::new(options))
    }

    /// Where Graph is.
    pub fn base_url(&self) -> &url::Url {
        self.0.base_url()
    }

    /// Gets a token.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn sign_in(&self) -> Result<SignedIn, Fault> {
        self.0.sign_in().await
    }

    /// Reads as little as can be of a stream.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn read(&self, of: &Needed, deadline: Deadline) -> Result<(), Interrupt> {
        let url = self.0.at(of.path, of.query);
        match self.0.get(of.call, url, deadline, |_, _, _| ()).await? {
            Answer::Page(..) => Ok(()),
            Answer::Resync => Err(of.call.refused_from_the_beginning().into()),
        }
    }

    /// What was granted to the application, whether or not it is in its token.
    ///
    /// # Errors
    /// Why that cannot be seen: mostly for want of `Application.Read.All`.
    pub async fn granted(&self, client: &str, deadline: Deadline) -> Result<Granted, Interrupt> {
        const CALL: Call = Call {
            what: "what was granted to the application",
            prefer: "odata.maxpagesize=999",
            needs: &["Application.Read.All", "Directory.Read.All"],
            plans: &[],
            is_delta: false,
        };
        let path = format!("servicePrincipals(appId='{client}')/appRoleAssignments");
        let url = self.0.at(&path, &[("$select", "appRoleId,resourceDisplayName")]);
        let read = |_: &SignedIn, _, objects: &[&RawValue]| {
            let all = objects.iter().filter_map(|one| serde_json::from_str(one.get()).ok());
            all.collect::<Vec<Assignment>>()
        };
        // Of more than one page the first is enough: an application has few rights.
        let all = match self.0.get(CALL, url, deadline, read).await? {
            Answer::Page(all, ..) => all,
            Answer::Resync => Vec::new(),
        };
        let (left_over, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|one| one.resource_display_name == AZURE_AD_GRAPH);
        let roles = others.into_iter().map(|one| one.app_role_id).collect();
        Ok(Granted { roles, left_over: left_over.len() })
    }
}
