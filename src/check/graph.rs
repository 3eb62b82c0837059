//! Rung 4: Microsoft Graph, for the sources that need it: which application it is, what it may do, whether
//! each stream can be read, and what it may do that nobody needs.

use tokio::time::timeout;

use super::hosts::Hosts;
use super::{Given, NOT_REACHED, PATIENCE, Rung, Rungs, Verdict, WRONG_SETTINGS};
use crate::http::{SignedIn, said};
use crate::seams::Deadline;
use crate::sources::graph::{GRAPH_APP, Granted, Needed, OPTIONAL, Probe, Right, needed};

const NO_TOKEN: &str = "there is no token";

pub(super) async fn rungs(
    given: &Given,
    probe: Option<&Probe>,
    hosts: &Hosts,
    rungs: &mut Rungs<'_>,
) {
    let sources: Vec<_> = given.graph_sources().collect();
    if sources.is_empty() {
        return;
    }
    let (Some(settings), Some(probe)) = (&given.graph, probe) else {
        rungs.push(Rung::skipped("graph", WRONG_SETTINGS));
        return;
    };
    let skip = |rungs: &mut Rungs<'_>, why: &str| {
        for source in &sources {
            rungs.push(Rung::skipped(format!("graph/rights/{source}"), why).of_source(source));
        }
    };
    if !hosts.issue_to(&settings.identity) || !hosts.reached(&settings.base_url) {
        rungs.push(Rung::skipped("graph/token", NOT_REACHED));
        return skip(rungs, NO_TOKEN);
    }
    let tried = format!("an access token for {}", settings.cloud.graph());
    let signed_in = match timeout(PATIENCE, probe.sign_in()).await {
        Ok(Ok(signed_in)) => signed_in,
        Ok(Err(fault)) => {
            rungs.push(Rung::fault("graph/token", tried, fault));
            return skip(rungs, NO_TOKEN);
        }
        Err(_) => {
            rungs.push(Rung::out_of_time("graph/token", tried));
            return skip(rungs, NO_TOKEN);
        }
    };
    rungs.push(token(tried, &signed_in));
    // Without the right to see it the rest is tested all the same.
    let granted = probe.granted(&signed_in.client, Deadline::after(PATIENCE)).await.ok();
    let is_granted = |right: &Right| {
        granted.as_ref().is_some_and(|granted| granted.roles.iter().any(|id| *id == right.1))
    };
    for source in &sources {
        let needed = needed(source);
        let graph = settings.cloud.graph();
        rungs.push(rights(source, needed, &signed_in, graph, is_granted).of_source(source));
        for of in needed {
            let rung = format!("graph/read/{}", of.stream);
            let tried = format!("as little as can be of {}", of.stream);
            let read = probe.read(of, Deadline::after(PATIENCE)).await;
            rungs.push(
                match read {
                    Ok(()) => Rung::ok(rung, tried, "it can be read"),
                    Err(why) => Rung::interrupt(rung, tried, why),
                }
                .of_source(source),
            );
        }
    }
    rungs.push(excess(&sources, &signed_in));
    rungs.push(left_over(granted));
}

/// Whether rights of the older API are left over.
fn left_over(granted: Option<Granted>) -> Rung {
    match granted {
        None => Rung::skipped(
            "graph/azure-ad-graph",
            "what was granted to the application can be seen with Application.Read.All only",
        ),
        Some(granted) if granted.left_over > 0 => Rung::ok(
            "graph/azure-ad-graph",
            "what was granted to the application",
            format!(
                "{} rights of Azure AD Graph, which Microsoft has switched off",
                granted.left_over
            ),
        )
        .but(Verdict::Warn, "remove them in the app registration: nothing uses them any more"),
        Some(_) => Rung::ok(
            "graph/azure-ad-graph",
            "what was granted to the application",
            "nothing of Azure AD Graph is left over",
        ),
    }
}

/// Which API is in use, and as whom.
fn token(tried: String, signed_in: &SignedIn) -> Rung {
    let SignedIn { client, tenant, audience, .. } = signed_in;
    let mut answer = "granted".to_owned();
    for (what, value) in
        [("client id", client), ("tenant", tenant), ("the API in use is", audience)]
    {
        if !value.is_empty() {
            answer += &format!(", {what} {}", said(value));
        }
    }
    let granted = Rung::ok("graph/token", tried, answer);
    match signed_in.audience.contains("graph.windows.net") {
        true => granted.but(Verdict::Fail, "Azure AD Graph is switched off: check AZURE_CLOUD"),
        false => granted,
    }
}

/// Whether the token has what a source needs.
fn rights(
    source: &str,
    needed: &[Needed],
    signed_in: &SignedIn,
    graph: &str,
    is_granted: impl Fn(&Right) -> bool,
) -> Rung {
    let rung = format!("graph/rights/{source}");
    let has = |of: &&Needed| {
        of.enough().iter().any(|right| signed_in.roles.iter().any(|role| role == right))
    };
    let mut missing: Vec<Right> = needed.iter().filter(|of| !has(of)).map(|of| of.least).collect();
    missing.dedup();
    let tried = format!("the rights in the token that {source} needs");
    let names =
        |rights: &[Right]| rights.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if missing.is_empty() {
        let mut all: Vec<Right> = needed.iter().map(|of| of.least).collect();
        all.dedup();
        return Rung::ok(rung, tried, format!("it has them, or larger ones: {}", names(&all)));
    }
    if missing.iter().all(is_granted) {
        let answer = format!("{} was granted and is not in it yet", names(&missing));
        let fix = "wait an hour, and for a managed identity up to a day: Azure keeps its token";
        return Rung::ok(rung, tried, answer).but(Verdict::Fail, fix);
    }
    let answer = format!("it lacks {}", names(&missing));
    Rung::ok(rung, tried, answer).but(Verdict::Fail, grant(&signed_in.client, graph, &missing))
}

/// How to grant these rights and no others.
fn grant(client: &str, graph: &str, rights: &[Right]) -> String {
    let ids = rights.iter().map(|(_, id)| *id).collect::<Vec<_>>().join(" ");
    format!(
        "somebody who is Privileged Role Administrator runs, in bash with the Azure CLI: \
         p=$(az ad sp show --id {client} --query id -o tsv); \
         r=$(az ad sp show --id {GRAPH_APP} --query id -o tsv); \
         for role in {ids}; do az rest --method POST \
         --url \"{graph}/v1.0/servicePrincipals/$p/appRoleAssignments\" \
         --body \"{{\\\"principalId\\\":\\\"$p\\\",\\\"resourceId\\\":\\\"$r\\\",\\\"appRoleId\\\":\\\"$role\\\"}}\"; \
         done; it is in the next token: in an hour, of a managed identity in up to a day"
    )
}

/// What the application may do that no source needs.
fn excess(sources: &[&'static str], signed_in: &SignedIn) -> Rung {
    let enough = |role: &&String| {
        let of_sources = sources.iter().flat_map(|source| needed(source));
        let mut known = of_sources.flat_map(|of| of.enough().iter().copied());
        let optional = OPTIONAL.iter().map(|(name, _)| *name);
        known.any(|right| right == **role) || optional.into_iter().any(|right| right == **role)
    };
    let tried = "the rights in the token that nothing here needs";
    let excess: Vec<&str> =
        signed_in.roles.iter().filter(|role| !enough(role)).map(String::as_str).collect();
    if excess.is_empty() {
        return Rung::ok("graph/excess", tried, "none");
    }
    Rung::ok("graph/excess", tried, said(&excess.join(", ")))
        .but(Verdict::Warn, "take them away, unless another program uses the same application")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_granted_in_the_cloud_that_is_read() {
        let fix = grant("a client", "https://graph.microsoft.us", &[("User.Read.All", "a role")]);
        let url = "https://graph.microsoft.us/v1.0/servicePrincipals/$p/appRoleAssignments";
        assert!(fix.contains(url) && fix.contains("for role in a role;"), "{fix}");
    }
}
