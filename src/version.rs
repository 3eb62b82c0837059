//! Of what release this program is, and the template that was deployed.
//!
//! `<version>+schema.<hash>.content.<hash>`: the version in Cargo.toml, then what the tables' columns and
//! what Microsoft Sentinel's content are made from. `arm/build` writes it, the template and this program
//! have it in them.

/// This program's.
pub const BUILD: &str = include_str!("../sentinel/version.txt").trim_ascii();

/// The environment variable in which the template leaves its own.
pub const TEMPLATE: &str = "TEMPLATE_VERSION";

/// What to know about a template of another release; `None` if it is of this one, or not known.
pub fn warning(template: Option<&str>) -> Option<String> {
    let template = template.filter(|template| *template != BUILD)?;
    let columns = |build: &str| {
        build.split_once("+schema.").map(|(_, rest)| rest.split('.').next().map(str::to_owned))
    };
    let lost = if columns(template) == columns(BUILD) {
        ""
    } else {
        ", and until then Azure drops what has no column in the deployed rule"
    };
    Some(format!(
        "the program is {BUILD} and the template that was deployed {template}: deploy program and template \
         of one release{lost}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_of_another_release_is_told_from_one_with_other_columns() {
        assert!(BUILD.starts_with(concat!(env!("CARGO_PKG_VERSION"), "+schema.")), "{BUILD}");
        assert_eq!(warning(None), None);
        assert_eq!(warning(Some(BUILD)), None);
        let (_, hashes) = BUILD.split_once('+').unwrap();
        let older = warning(Some(&format!("0.0.1+{hashes}"))).unwrap();
        assert!(older.contains(BUILD) && older.contains("0.0.1+"), "{older}");
        assert!(!older.contains("drops"), "{older}");
        let content = BUILD.split_once(".content.").unwrap().0.to_owned() + ".content.00000000";
        assert!(!warning(Some(&content)).unwrap().contains("drops"));
        let columns = "0.0.1+schema.00000000.content.00000000";
        assert!(warning(Some(columns)).unwrap().ends_with("no column in the deployed rule"));
        assert!(warning(Some("odd")).unwrap().contains("odd"));
    }
}
