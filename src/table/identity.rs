//! The columns of the tables of Microsoft Entra ID Protection and of the directory.
//!
//! A row is an *observation*: what an object was when it was read. What is true now, readers derive:
//! docs/IDENTITY.md says how.

use super::{Column, ColumnType, From, Table};

/// The columns with which every table of observations begins, and those of `more`, and the rest.
macro_rules! observations {
    ($time:literal, $($more:expr,)+) => {
        &[
            Column::new("TimeGenerated", ColumnType::Datetime, From::TimeOrArrival, $time),
            Column::new(
                "EventId",
                ColumnType::String,
                From::Id,
                "The observation's identity: the first 128 bits of SHA-256 over what was observed, in \
                 lower-case hex. The same observation, read again, has the same value.",
            ),
            Column::field(
                "ObservedDateTime",
                ColumnType::Datetime,
                "When it was read. It orders the observations of an object, also where they arrive \
                 late.",
            ),
            text("AadTenantId", "The tenant's id."),
            text("RowKind", "What the row is: see docs/IDENTITY.md."),
            text(
                "Round",
                "When the reading began that the row belongs to, RFC 3339 in UTC; empty for risk, \
                 which is read in no rounds.",
            ),
            $($more,)+
            Column::new(
                "AdditionalFields",
                ColumnType::Dynamic,
                From::Rest,
                "Every property that has no column, and every one whose value is of another type than \
                 its column, under the name Microsoft Graph gave it.",
            ),
        ]
    };
}

const fn text(name: &'static str, description: &'static str) -> Column {
    Column::field(name, ColumnType::String, description)
}

const fn time(name: &'static str, description: &'static str) -> Column {
    Column::field(name, ColumnType::Datetime, description)
}

const fn yes_no(name: &'static str, description: &'static str) -> Column {
    Column::field(name, ColumnType::Boolean, description)
}

const fn any(name: &'static str, description: &'static str) -> Column {
    Column::field(name, ColumnType::Dynamic, description)
}

const ROW_COUNT: Column = Column::field(
    "RowCount",
    ColumnType::Long,
    "Of a row RoundComplete: how many rows the round was sent with, repeats included.",
);

/// Risk detections: one row for each state that one was seen in.
pub static RISK_DETECTIONS: Table = Table::new(
    "EntraRiskDetections_CL",
    "Custom-EntraRiskDetections",
    Some("LastUpdatedDateTime"),
    observations![
        "When the detection was changed last; when it arrived, if that is not known. The time of \
         ingestion takes its place if it is more than 46 hours old.",
        text("DetectionId", "The detection's id."),
        text("Activity", "What was rated: signin, user or servicePrincipal."),
        time("ActivityDateTime", "When what was rated happened: the time to compare with mail's."),
        time("DetectedDateTime", "When Entra rated it, up to 48 hours later."),
        time("LastUpdatedDateTime", "When the detection was changed last."),
        Column::field(
            "LastUpdatedTicks",
            ColumnType::Long,
            "The same in units of 100 ns since 1970, which are exact.",
        ),
        text("DetectionTimingType", "realtime, nearRealtime, offline or notDefined."),
        text("RiskEventType", "The kind of risk, of an open list; generic without a P2 licence."),
        text("RiskLevel", "low, medium, high, none; hidden without a P2 licence."),
        text(
            "RiskState",
            "atRisk, confirmedCompromised, remediated, dismissed, confirmedSafe or none."
        ),
        text("RiskDetail", "Why it is in this state."),
        text("RiskSource", "Which of Microsoft's services found it."),
        text("TokenIssuerType", "Who issued the token of the sign-in."),
        text("RequestId", "The sign-in's request id, if it was one."),
        text("CorrelationId", "The sign-in's correlation id, if it was one."),
        text("IpAddress", "The client's address, as given: it may be none."),
        text("LocationCity", "Where that address is thought to be."),
        text("LocationState", "Its state or province."),
        text("LocationCountryOrRegion", "Its country, in two letters."),
        Column::field("LocationLatitude", ColumnType::Real, "Degrees north."),
        Column::field("LocationLongitude", ColumnType::Real, "Degrees east."),
        text("UserId", "The user's object id."),
        text("UserPrincipalName", "The user's sign-in name then."),
        text("UserDisplayName", "The user's name then."),
        text("UserAgent", "The client's user agent, from AdditionalInfo."),
        text("AlertUrl", "Where the alert is shown, from AdditionalInfo."),
        any("RiskReasons", "The reasons, from AdditionalInfo."),
        any(
            "AdditionalInfo",
            "Key and value pairs, as an array; the text as given, if it is no JSON.",
        ),
        yes_no("LicenceLimited", "Whether Microsoft hides what it is for want of a licence."),
    ],
);

/// Risky users: one row for each state that one was seen in.
pub static RISKY_USERS: Table = Table::new(
    "EntraRiskyUsers_CL",
    "Custom-EntraRiskyUsers",
    Some("ObservedDateTime"),
    observations![
        "When it was read; the time of ingestion takes its place if it is more than 46 hours old.",
        text("UserId", "The user's object id."),
        text("UserPrincipalName", "The user's sign-in name."),
        text("UserDisplayName", "The user's name."),
        yes_no("IsDeleted", "Whether the user is deleted."),
        yes_no("IsProcessing", "Whether Entra is at work on the state."),
        text("RiskLevel", "low, medium, high, none or hidden."),
        text(
            "RiskState",
            "atRisk, confirmedCompromised, remediated, dismissed, confirmedSafe or none."
        ),
        text("RiskDetail", "Why the user is in this state."),
        time("RiskLastUpdatedDateTime", "When the state was changed last."),
    ],
);

/// Users of the directory.
pub static USERS: Table = Table::new(
    "DirectoryUsers_CL",
    "Custom-DirectoryUsers",
    Some("ObservedDateTime"),
    observations![
        "When it was read; the time of ingestion takes its place if it is more than 46 hours old.",
        ROW_COUNT,
        text("UserId", "The user's object id."),
        text(
            "RemovedReason",
            "Of a row Removed: changed (deleted, to be restored for 30 days) or deleted."
        ),
        text("UserPrincipalName", "The sign-in name."),
        text("Mail", "The main mail address."),
        text("MailNickname", "The mail alias."),
        any(
            "SmtpAddresses",
            "All mail addresses, in lower case: the key to Mimecast's recipients."
        ),
        text("DisplayName", "The whole name."),
        text("GivenName", "The first name."),
        text("Surname", "The last name."),
        text("JobTitle", "The job's title."),
        text("Department", "The department."),
        text("CompanyName", "The company."),
        text("OfficeLocation", "The office."),
        text("Country", "The country."),
        text("UsageLocation", "The country in which licences are used, in two letters."),
        text("EmployeeId", "The organisation's own id."),
        text("EmployeeType", "Such as Employee or Contractor."),
        text("UserType", "Member or Guest."),
        yes_no("AccountEnabled", "Whether the account may sign in."),
        time("CreatedDateTime", "When the account was made."),
        yes_no("OnPremisesSyncEnabled", "Whether the account comes from Active Directory."),
        text("OnPremisesSecurityIdentifier", "Its SID there."),
        text("OnPremisesSamAccountName", "Its name there."),
        text("OnPremisesDomainName", "Its domain there."),
        text("ManagerId", "The manager's object id."),
    ],
);

/// Groups of the directory.
pub static GROUPS: Table = Table::new(
    "DirectoryGroups_CL",
    "Custom-DirectoryGroups",
    Some("ObservedDateTime"),
    observations![
        "When it was read; the time of ingestion takes its place if it is more than 46 hours old.",
        ROW_COUNT,
        text("GroupId", "The group's object id."),
        text(
            "RemovedReason",
            "Of a row Removed: changed (deleted, to be restored for 30 days) or deleted."
        ),
        text("DisplayName", "The name."),
        text("Description", "What it is for."),
        text("Mail", "The main mail address."),
        any("SmtpAddresses", "All mail addresses, in lower case."),
        yes_no("MailEnabled", "Whether it receives mail."),
        yes_no("SecurityEnabled", "Whether rights can be given to it."),
        any("GroupTypes", "Unified for Microsoft 365 groups, DynamicMembership for those by rule."),
        text("MembershipRule", "The rule of a dynamic group."),
        yes_no("IsAssignableToRole", "Whether it can have a role of the directory."),
        text(
            "Visibility",
            "Such as HiddenMembership, whose members are only shown with a right of their own."
        ),
        yes_no("OnPremisesSyncEnabled", "Whether it comes from Active Directory."),
        text("OnPremisesSecurityIdentifier", "Its SID there."),
        time("CreatedDateTime", "When it was made."),
    ],
);

/// Who is directly in which group.
pub static GROUP_MEMBERS: Table = Table::new(
    "DirectoryGroupMembers_CL",
    "Custom-DirectoryGroupMembers",
    Some("ObservedDateTime"),
    observations![
        "When it was read; the time of ingestion takes its place if it is more than 46 hours old.",
        ROW_COUNT,
        text("GroupId", "The group's object id."),
        text(
            "MemberId",
            "The member's object id; empty of a row GroupRemoved, which ends all of its members."
        ),
        text("MemberType", "What the member is: user, group, device, servicePrincipal …"),
        text("RemovedReason", "Of a row Removed or GroupRemoved: changed or deleted."),
    ],
);
