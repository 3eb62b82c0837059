//! Reads settings one by one and keeps every fault, so that all are reported at once.

use std::fmt;
use std::ops::RangeInclusive;

use secrecy::SecretString;

/// What is wrong with one setting. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingFault {
    /// The setting's name, e.g. `START_DATE`.
    pub setting: &'static str,
    /// What is wrong: a sentence without its full stop.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for SettingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.setting, self.problem, self.fix)
    }
}

/// All that is wrong with the settings. Shown as one line for each fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFaults(Vec<SettingFault>);

impl SettingsFaults {
    /// The faults, in the order in which the settings are documented.
    pub fn faults(&self) -> &[SettingFault] {
        &self.0
    }
}

impl fmt::Display for SettingsFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsFaults {}

/// Why a value is refused, before it is known whose value it is.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) problem: String,
    pub(super) fix: String,
}

/// A [`Wrong`] as an error.
pub(super) fn wrong<T>(problem: impl Into<String>, fix: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { problem: problem.into(), fix: fix.into() })
}

/// A value without the blanks around it; an empty one is unset.
pub(super) fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|value| !value.is_empty())
}

/// The environment, and the faults so far. A method that returns `None` has recorded a fault.
pub(super) struct Reader<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<SettingFault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { env, faults: Vec::new() }
    }

    /// `settings` if nothing was wrong.
    pub(super) fn finish<T>(self, settings: Option<T>) -> Result<T, SettingsFaults> {
        settings.filter(|_| self.faults.is_empty()).ok_or(SettingsFaults(self.faults))
    }

    /// An environment variable; an empty one is unset.
    pub(super) fn env(&self, name: &str) -> Option<String> {
        given(&(self.env)(name)).map(str::to_owned)
    }

    /// Whether the Functions host started this process.
    pub(super) fn under_functions(&self) -> bool {
        self.env(super::FUNCTIONS_PORT).is_some()
    }

    /// Records a fault; the same one is reported once.
    pub(super) fn fault(&mut self, setting: &'static str, wrong: Wrong) {
        let fault = SettingFault { setting, problem: wrong.problem, fix: wrong.fix };
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// A setting with a default, which is read as a given value would be.
    pub(super) fn optional<T>(
        &mut self,
        setting: &'static str,
        value: &Option<String>,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        parse(given(value).unwrap_or(default)).map_err(|wrong| self.fault(setting, wrong)).ok()
    }

    /// A setting that must be given; `fix` says where to find its value.
    pub(super) fn required<T>(
        &mut self,
        setting: &'static str,
        value: &Option<String>,
        fix: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = given(value).map_or_else(|| wrong("it is not set", fix), Ok);
        value.and_then(parse).map_err(|wrong| self.fault(setting, wrong)).ok()
    }

    /// A secret that must be in the environment.
    pub(super) fn secret(&mut self, setting: &'static str, fix: &str) -> Option<SecretString> {
        let value = self.env(setting);
        self.required(setting, &value, fix, |value| {
            // What the platform leaves in place when it cannot resolve the reference.
            if value.starts_with("@Microsoft.KeyVault(") {
                return wrong(
                    "its Key Vault reference was not resolved",
                    "Set the same name with _URI at its end to the secret's URL in the vault instead, which the \
                     program reads by itself; or give the function app's identity the role Key Vault \
                     Secrets User on the vault, and see that the vault's network admits the app.",
                );
            }
            Ok(SecretString::from(value))
        })
    }
}

/// Takes whole numbers within `range`; `what` is e.g. `number of bytes`.
pub(super) fn whole_number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
    what: &str,
) -> impl FnOnce(&str) -> Result<T, Wrong> {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).map_or_else(
            || {
                wrong(
                    format!("{text:?} is not accepted"),
                    format!("Give a whole {what} from {} to {}.", range.start(), range.end()),
                )
            },
            Ok,
        )
    }
}

/// Takes an identifier as Mimecast and Entra issue them; it goes into paths and forms.
pub(super) fn identifier(text: &str) -> Result<String, Wrong> {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        Ok(text.to_owned())
    } else {
        wrong(
            "it has characters that no such id has",
            "Copy the id again: letters, digits, `-`, `.` and `_`.",
        )
    }
}
