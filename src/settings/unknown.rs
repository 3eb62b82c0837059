//! Variables that are named as a setting of ours, and are none: most likely misspelt.

use std::fmt;

use clap::{Arg, Args, Command};

use super::raw::RawSettings;

/// How the names of settings begin that no other program has.
pub const PREFIXES: [&str; 8] = [
    "MIMECAST_",
    "LOGS_INGESTION_",
    "CHECKPOINT_",
    "ENTRA_",
    "DIRECTORY_",
    "DELEGATES_",
    "GRAPH_",
    "SPILL_",
];

/// The secrets, which are read from the environment alone.
pub const SECRETS: [&str; 3] =
    ["MIMECAST_CLIENT_SECRET", "AZURE_CLIENT_SECRET", "ENTRA_CLIENT_SECRET"];

/// A variable that nothing reads. Its value is not kept, since it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSetting {
    /// Its name.
    pub name: String,
    /// The setting whose name is nearest.
    pub nearest: String,
}

impl fmt::Display for UnknownSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, nearest } = self;
        write!(f, "{name} is set, but there is no such setting; the nearest is {nearest}")
    }
}

/// Those among the names of an environment.
pub fn unknown_settings(names: impl IntoIterator<Item = String>) -> Vec<UnknownSetting> {
    let command = RawSettings::augment_args(Command::new("settings"));
    let flags = command.get_arguments().filter_map(Arg::get_env);
    let known: Vec<String> = flags
        .map(|name| name.to_string_lossy().into_owned())
        .chain(SECRETS.map(str::to_owned))
        .collect();
    let mut unknown: Vec<UnknownSetting> = names
        .into_iter()
        .filter(|name| has_our_prefix(name) && !known.contains(name))
        .filter_map(|name| {
            // In one case, since a setting in another is not read either.
            let upper = name.to_uppercase();
            let near = |known: &&String| strsim::sorensen_dice(&upper, known);
            let nearest = known.iter().max_by(|a, b| near(a).total_cmp(&near(b)))?.clone();
            Some(UnknownSetting { name, nearest })
        })
        .collect();
    unknown.sort_by(|a, b| a.name.cmp(&b.name));
    unknown
}

fn has_our_prefix(name: &str) -> bool {
    let name = name.to_uppercase();
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_misspelt_has_the_nearest_beside_it() {
        let cases = [
            ("MIMECAST_CLIENTID", "MIMECAST_CLIENT_ID"),
            ("MIMECAST_BASEURL", "MIMECAST_BASE_URL"),
            ("MIMECAST_SECRET", "MIMECAST_CLIENT_SECRET"),
            ("MIMECAST_CLIENT_SECRET_FILES", "MIMECAST_CLIENT_SECRET_FILE"),
            ("MIMECAST_CLIENT_SECRET_URL", "MIMECAST_CLIENT_SECRET_URI"),
            ("mimecast_types", "MIMECAST_TYPES"),
            ("LOGS_INGESTION_RULEID", "LOGS_INGESTION_RULE_ID"),
            ("CHECKPOINT_URI", "CHECKPOINT_URL"),
            ("SPILL_MAX_BYTE", "SPILL_MAX_BYTES"),
        ];
        for (name, nearest) in cases {
            let (name, nearest) = (name.to_owned(), nearest.to_owned());
            let expected = [UnknownSetting { name: name.clone(), nearest }];
            assert_eq!(unknown_settings([name]), expected);
        }
    }

    #[test]
    fn a_setting_and_what_is_not_named_as_one_is_known_or_not_ours() {
        let names =
            ["MIMECAST_CLIENT_ID", "MIMECAST_CLIENT_SECRET", "PATH", "AZURE_X", "LOG_LEVLE"];
        assert_eq!(unknown_settings(names.map(str::to_owned)), []);
    }
}
