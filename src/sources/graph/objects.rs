//! Graph's objects as columns: what each property is called, and what is made of some.

use serde_json::{Map, Value, json};

/// The columns of an object: its properties under the columns' names, the others under their own, and
/// no annotation of the protocol.
pub(super) fn columns(
    mut object: Map<String, Value>,
    names: &[(&str, &str)],
) -> Map<String, Value> {
    let mut columns = Map::new();
    for (property, column) in names {
        if let Some(value) = object.remove(*property) {
            columns.insert((*column).to_owned(), value);
        }
    }
    object.retain(|name, _| !name.starts_with('@') && !name.contains("@odata."));
    columns.extend(object);
    columns
}

/// An object's id.
pub(super) fn id(object: &Map<String, Value>) -> &str {
    object.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// Why an object is no longer there, if it says so.
pub(super) fn removed(object: &Map<String, Value>) -> Option<&str> {
    let removed = object.get("@removed").filter(|removed| !removed.is_null())?;
    Some(removed.get("reason").and_then(Value::as_str).unwrap_or_default())
}

/// All mail addresses of a user or a group, in lower case and in order.
pub(super) fn smtp_addresses(object: &Map<String, Value>) -> Option<Value> {
    let proxies = object.get("proxyAddresses").and_then(Value::as_array);
    let proxies = proxies.into_iter().flatten().filter_map(Value::as_str).filter_map(|address| {
        // `SMTP:` is the main one.
        let (kind, address) = address.split_once(':')?;
        kind.eq_ignore_ascii_case("smtp").then_some(address)
    });
    let mail = object.get("mail").and_then(Value::as_str);
    let mut all: Vec<String> = proxies.chain(mail).map(str::to_lowercase).collect();
    all.sort_unstable();
    all.dedup();
    (!all.is_empty()).then(|| json!(all))
}

/// What a member is: `user` of `#microsoft.graph.user`.
pub(super) fn kind(object: &Map<String, Value>) -> Option<&str> {
    object.get("@odata.type")?.as_str()?.rsplit('.').next()
}

pub(super) const DETECTION: &[(&str, &str)] = &[
    ("id", "DetectionId"),
    ("activity", "Activity"),
    ("activityDateTime", "ActivityDateTime"),
    ("detectedDateTime", "DetectedDateTime"),
    ("lastUpdatedDateTime", "LastUpdatedDateTime"),
    ("detectionTimingType", "DetectionTimingType"),
    ("riskEventType", "RiskEventType"),
    ("riskLevel", "RiskLevel"),
    ("riskState", "RiskState"),
    ("riskDetail", "RiskDetail"),
    ("source", "RiskSource"),
    ("tokenIssuerType", "TokenIssuerType"),
    ("requestId", "RequestId"),
    ("correlationId", "CorrelationId"),
    ("ipAddress", "IpAddress"),
    ("userId", "UserId"),
    ("userPrincipalName", "UserPrincipalName"),
    ("userDisplayName", "UserDisplayName"),
];

pub(super) const RISKY_USER: &[(&str, &str)] = &[
    ("id", "UserId"),
    ("userPrincipalName", "UserPrincipalName"),
    ("userDisplayName", "UserDisplayName"),
    ("isDeleted", "IsDeleted"),
    ("isProcessing", "IsProcessing"),
    ("riskLevel", "RiskLevel"),
    ("riskState", "RiskState"),
    ("riskDetail", "RiskDetail"),
    ("riskLastUpdatedDateTime", "RiskLastUpdatedDateTime"),
];

/// What is asked of users. `manager` and `proxyAddresses` become other columns.
pub(super) const USER: &[(&str, &str)] = &[
    ("id", "UserId"),
    ("userPrincipalName", "UserPrincipalName"),
    ("mail", "Mail"),
    ("mailNickname", "MailNickname"),
    ("displayName", "DisplayName"),
    ("givenName", "GivenName"),
    ("surname", "Surname"),
    ("jobTitle", "JobTitle"),
    ("department", "Department"),
    ("companyName", "CompanyName"),
    ("officeLocation", "OfficeLocation"),
    ("country", "Country"),
    ("usageLocation", "UsageLocation"),
    ("employeeId", "EmployeeId"),
    ("employeeType", "EmployeeType"),
    ("userType", "UserType"),
    ("accountEnabled", "AccountEnabled"),
    ("createdDateTime", "CreatedDateTime"),
    ("onPremisesSyncEnabled", "OnPremisesSyncEnabled"),
    ("onPremisesSecurityIdentifier", "OnPremisesSecurityIdentifier"),
    ("onPremisesSamAccountName", "OnPremisesSamAccountName"),
    ("onPremisesDomainName", "OnPremisesDomainName"),
];

/// What is asked of groups.
pub(super) const GROUP: &[(&str, &str)] = &[
    ("id", "GroupId"),
    ("displayName", "DisplayName"),
    ("description", "Description"),
    ("mail", "Mail"),
    ("mailEnabled", "MailEnabled"),
    ("securityEnabled", "SecurityEnabled"),
    ("groupTypes", "GroupTypes"),
    ("membershipRule", "MembershipRule"),
    ("isAssignableToRole", "IsAssignableToRole"),
    ("visibility", "Visibility"),
    ("onPremisesSyncEnabled", "OnPremisesSyncEnabled"),
    ("onPremisesSecurityIdentifier", "OnPremisesSecurityIdentifier"),
    ("createdDateTime", "CreatedDateTime"),
];

/// The columns of a risk detection. `additionalInfo` is a text that is JSON, mostly.
pub(super) fn detection(mut object: Map<String, Value>) -> Map<String, Value> {
    let info = match object.remove("additionalInfo") {
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => {
            Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
        }
        other => other,
    };
    let location = object.remove("location");
    let mut columns = columns(object, DETECTION);
    let of_info = |key: &str| {
        let pairs = info.as_ref()?.as_array()?;
        pairs.iter().find(|pair| pair["Key"] == key).map(|pair| pair["Value"].clone())
    };
    for (key, column) in
        [("userAgent", "UserAgent"), ("alertUrl", "AlertUrl"), ("riskReasons", "RiskReasons")]
    {
        if let Some(value) = of_info(key) {
            columns.insert(column.to_owned(), value);
        }
    }
    match location {
        Some(Value::Object(mut location)) => {
            if let Some(Value::Object(mut place)) = location.remove("geoCoordinates") {
                for (key, column) in
                    [("latitude", "LocationLatitude"), ("longitude", "LocationLongitude")]
                {
                    columns.extend(place.remove(key).map(|value| (column.to_owned(), value)));
                }
                place.retain(|_, value| !value.is_null());
                if !place.is_empty() {
                    location.insert("geoCoordinates".to_owned(), Value::Object(place));
                }
            }
            for (key, column) in [
                ("city", "LocationCity"),
                ("state", "LocationState"),
                ("countryOrRegion", "LocationCountryOrRegion"),
            ] {
                columns.extend(location.remove(key).map(|value| (column.to_owned(), value)));
            }
            location.retain(|name, value| !value.is_null() && !name.contains('@'));
            if !location.is_empty() {
                columns.insert("location".to_owned(), Value::Object(location));
            }
        }
        Some(Value::Null) | None => {}
        Some(other) => {
            columns.insert("location".to_owned(), other);
        }
    }
    let limited = columns.get("RiskEventType").is_some_and(|kind| kind == "generic")
        || columns.get("RiskLevel").is_some_and(|level| level == "hidden");
    columns.insert("LicenceLimited".to_owned(), json!(limited));
    columns.extend(info.map(|info| ("AdditionalInfo".to_owned(), info)));
    columns
}

/// The columns of a user or group of the directory.
pub(super) fn of_directory(
    mut object: Map<String, Value>,
    names: &[(&str, &str)],
) -> Map<String, Value> {
    let (addresses, removed) = (smtp_addresses(&object), removed(&object).map(str::to_owned));
    object.remove("proxyAddresses");
    let manager = object.remove("manager@delta").or_else(|| object.remove("manager"));
    let manager = manager.as_ref().and_then(|manager| match manager {
        Value::Array(all) => {
            all.iter().filter(|one| one.get("@removed").is_none()).find_map(|one| one.get("id"))
        }
        one => one.get("id"),
    });
    let manager = manager.cloned();
    let mut columns = columns(object, names);
    columns.extend(addresses.map(|all| ("SmtpAddresses".to_owned(), all)));
    columns.extend(manager.map(|id| ("ManagerId".to_owned(), id)));
    columns.extend(removed.map(|reason| ("RemovedReason".to_owned(), json!(reason))));
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_detection_keeps_all_that_it_says() {
        let info = json!([
            {"Key": "userAgent", "Value": "Mozilla/5.0"},
            {"Key": "riskReasons", "Value": ["UnfamiliarASN"]},
        ]);
        let columns = detection(map(json!({
            "@odata.type": "#microsoft.graph.riskDetection",
            "id": "6a5874ca-abcd-9d82-5ad39bd71600", "riskType": "new", "riskLevel": "medium",
            "ipAddress": "123.456.7.89", "source": "IdentityProtection",
            "location": {"city": "Seattle", "state": null, "geoCoordinates": {"latitude": 47.6, "altitude": 9.5}},
            "additionalInfo": info.to_string(),
        })));
        assert_eq!(
            Value::Object(columns),
            json!({
                "DetectionId": "6a5874ca-abcd-9d82-5ad39bd71600", "riskType": "new",
                "RiskLevel": "medium", "IpAddress": "123.456.7.89", "RiskSource": "IdentityProtection",
                "LocationCity": "Seattle", "LocationState": null, "LocationLatitude": 47.6,
                "location": {"geoCoordinates": {"altitude": 9.5}},
                "UserAgent": "Mozilla/5.0", "RiskReasons": ["UnfamiliarASN"],
                "AdditionalInfo": info, "LicenceLimited": false,
            })
        );
    }

    #[test]
    fn what_is_no_json_stays_as_it_is() {
        let columns = detection(map(json!({
            "id": "1", "riskEventType": "generic", "additionalInfo": "[{not json", "location": "Seattle",
        })));
        assert_eq!(columns["AdditionalInfo"], "[{not json");
        assert_eq!(columns["location"], "Seattle");
        assert_eq!(columns["LicenceLimited"], true);
    }

    #[test]
    fn a_user_has_every_mail_address_once_and_a_manager_if_there_is_one() {
        let user = |manager: Value| {
            of_directory(
                map(json!({
                    "id": "u", "mail": "Ada@Contoso.example", "manager@delta": manager,
                    "proxyAddresses": ["SMTP:ada@contoso.example", "smtp:A.L@contoso.example",
                                       "X500:/o=Contoso", "SIP:ada@contoso.example"],
                })),
                USER,
            )
        };
        let columns = user(json!([{"@odata.type": "#microsoft.graph.user", "id": "m"}]));
        assert_eq!(columns["SmtpAddresses"], json!(["a.l@contoso.example", "ada@contoso.example"]));
        assert_eq!(columns["ManagerId"], "m");
        assert!(!columns.contains_key("manager@delta"));
        let gone = user(json!([{"id": "m", "@removed": {"reason": "changed"}}]));
        assert!(!gone.contains_key("ManagerId"));
        let removed =
            of_directory(map(json!({"id": "u", "@removed": {"reason": "changed"}})), USER);
        assert_eq!(Value::Object(removed), json!({"UserId": "u", "RemovedReason": "changed"}));
        let there = of_directory(map(json!({"id": "u", "@removed": null})), USER);
        assert_eq!(Value::Object(there), json!({"UserId": "u"}));
    }
}
