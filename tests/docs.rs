//! The documents say what the code says: settings, error codes, columns, dependencies, and which
//! room uses which.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use mimecast_sentinel::codes::Code;
use mimecast_sentinel::settings::RawSettings;
use mimecast_sentinel::table::{ColumnType, From, TABLES, Table};

/// Which room may use which, from the top of the house to its bottom.
const MAY_USE: [(&str, &str); 19] = [
    (
        "cli",
        "azure, check, checkpoint, codes, functions, health, http, pipeline, quarantine, \
         schedule, seams, settings, simulator, sources, spill, store, table, version",
    ),
    ("functions", "–"),
    (
        "health",
        "check, pipeline, quarantine, checkpoint, store, schedule, table, seams, codes, version",
    ),
    ("check", "sources, azure, pipeline, store, settings, schedule, http, table, seams"),
    ("sources", "pipeline, checkpoint, http, table, seams, codes"),
    ("azure", "pipeline, settings, store, http, table, seams, codes"),
    ("pipeline", "quarantine, spill, checkpoint, store, table, seams, codes"),
    ("quarantine", "checkpoint, store"),
    ("spill", "checkpoint, store"),
    ("checkpoint", "–"),
    ("store", "seams"),
    ("settings", "schedule"),
    ("schedule", "–"),
    ("simulator", "table, seams"),
    ("table", "–"),
    ("http", "seams"),
    ("seams", "–"),
    ("codes", "–"),
    ("version", "–"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The text on one line, so that a sentence is found wherever its lines break.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The cells of a document's table rows.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter_map(|line| {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(cells.split(" | ").map(str::trim).collect())
    })
}

/// The text between backquotes at the beginning of a cell.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split('`').next()
}

/// The lines of each source file that are neither comment nor test, by its path below `src/`.
fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, paths) } else { paths.push(path) }
        }
    }
    let src = root().join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    let texts = paths.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
        let code = code.filter(|line| !line.trim_start().starts_with("//"));
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        (name, code.collect::<Vec<_>>().join("\n"))
    });
    texts.filter(|(name, _)| !name.starts_with("table/row/")).collect()
}

/// The string literal with which `source` begins, unescaped as far as it matters here.
fn literal(source: &str) -> Option<String> {
    let source = source.trim_start().trim_start_matches("format!(").trim_start();
    let mut chars = source.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => match chars.next()? {
                '\n' => chars = chars.as_str().trim_start().chars(),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

fn literals_after(source: &str, marker: &str) -> Vec<String> {
    let places = source.match_indices(marker);
    places.filter_map(|(at, _)| literal(&source[at + marker.len()..])).collect()
}

#[test]
fn no_room_uses_one_above_it() {
    for (file, source) in sources() {
        let room = file.split(['/', '.']).next().unwrap();
        if ["lib", "main"].contains(&room) {
            continue;
        }
        let at = MAY_USE.iter().position(|(name, _)| *name == room);
        let at = at.unwrap_or_else(|| panic!("{file} is in no room of the table"));
        let allowed: Vec<&str> = MAY_USE[at].1.split(", ").collect();
        for (place, marker) in source.match_indices("crate::") {
            let used = &source[place + marker.len()..];
            let used = used.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap();
            let fine = used == room || allowed.contains(&used);
            assert!(fine, "src/{file} uses crate::{used}, which the table does not allow");
        }
        for used in allowed.iter().filter(|used| **used != "–") {
            let below = MAY_USE.iter().position(|(name, _)| name == used).unwrap();
            assert!(below > at, "{used} is above {room} in the table");
        }
    }
}

/// A bare one loses the id of the invocation that its lines belong to.
#[test]
fn no_room_that_a_run_goes_through_starts_a_task_without_the_span_it_is_in() {
    let rooms = ["check", "sources", "azure", "pipeline", "quarantine", "spill", "store", "http"];
    for (file, source) in sources() {
        let bare = ["tokio::spawn(", "task::spawn"].iter().any(|call| source.contains(call));
        let of_a_run = rooms.contains(&file.split('/').next().unwrap());
        assert!(!(bare && of_a_run), "src/{file}: use seams::spawn or seams::spawn_blocking");
    }
}

#[test]
fn the_map_has_the_same_rooms_and_arrows() {
    let map = read("ARCHITECTURE.md");
    let shown: Vec<(&str, &str)> =
        rows(&map).filter_map(|cells| Some((code(cells[0])?, *cells.get(2)?))).collect();
    assert_eq!(shown, MAY_USE);
    for (room, allowed) in MAY_USE {
        let used = |name: &str| {
            let of_room = |file: &str| file.split(['/', '.']).next() == Some(room);
            let path = format!("crate::{name}::");
            sources().iter().any(|(file, source)| of_room(file) && source.contains(&path))
        };
        let unused: Vec<&str> =
            allowed.split(", ").filter(|name| *name != "–" && !used(name)).collect();
        assert!(unused.is_empty(), "{room} does not use {unused:?}: take them from the table");
    }
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let document = read("docs/SETTINGS.md");
    let table: BTreeMap<&str, Vec<&str>> =
        rows(&document).filter_map(|cells| Some((code(cells[0])?, cells))).collect();
    let command = RawSettings::augment_args(Command::new("test"));
    let mut flags = 0;
    for arg in command.get_arguments() {
        let name = arg.get_env().unwrap().to_str().unwrap();
        let row = table.get(name).unwrap_or_else(|| panic!("{name} is not in docs/SETTINGS.md"));
        assert_eq!(code(row[1]), Some(&*format!("--{}", arg.get_long().unwrap())), "{name}");
        let help = on_one_line(&arg.get_help().unwrap().to_string());
        let default = help.split_once("[default: ").map(|(_, rest)| rest.trim_end_matches(']'));
        match default {
            Some(default) => assert_eq!(row[2], default, "{name}"),
            None => assert!(["must be set", "none"].contains(&row[2]), "{name}"),
        }
        flags += 1;
    }
    let documented = table.values().filter(|row| row.len() == 4).count();
    assert_eq!(documented, flags, "docs/SETTINGS.md has a setting that does not exist");
    for secret in ["MIMECAST_CLIENT_SECRET", "AZURE_CLIENT_SECRET", "ENTRA_CLIENT_SECRET"] {
        assert!(table.contains_key(secret), "{secret}");
    }
}

#[test]
fn every_error_code_has_its_section() {
    let document = read("docs/TROUBLESHOOTING.md");
    let headings = document.lines().filter_map(|line| line.strip_prefix("### "));
    let sections: Vec<&str> = headings.filter_map(code).collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(sections, codes, "the sections of docs/TROUBLESHOOTING.md are not the codes");
    assert_eq!(BTreeSet::from_iter(&codes).len(), codes.len(), "two codes have one word");
}

/// Reasons in quarantine: all literals with hyphens in the rooms that make them.
fn reasons() -> BTreeSet<String> {
    let is_reason = |text: &String| {
        text.contains('-')
            && text.split('-').all(|word| {
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'8')
            })
    };
    let mut reasons = BTreeSet::new();
    for (file, source) in sources() {
        if file.starts_with("pipeline/") || file.starts_with("table/") {
            let quotes = source.match_indices('"');
            let all = quotes.filter_map(|(at, _)| literal(&source[at..]));
            reasons.extend(all.filter(is_reason));
        }
    }
    reasons
}

#[test]
fn every_reason_in_quarantine_has_its_row() {
    let document = read("docs/TROUBLESHOOTING.md");
    let table = document.split("## Reasons in quarantine").nth(1).unwrap();
    let rows: BTreeSet<String> = rows(table.split("\n## ").next().unwrap())
        .flat_map(|cells| {
            cells[0].split(", ").filter_map(code).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(rows, reasons(), "the reasons of docs/TROUBLESHOOTING.md are not those of src/");
}

#[test]
fn every_fault_of_the_settings_is_documented_in_its_words() {
    let document = on_one_line(&read("docs/TROUBLESHOOTING.md"));
    let mut checked = 0;
    for (file, source) in sources() {
        if !file.starts_with("settings/") && file != "schedule.rs" {
            continue;
        }
        for marker in ["wrong(", "problem = ", "problem: ", "Err(", "#[error("] {
            for words in literals_after(&source, marker) {
                // The longest piece between what is filled in, up to where the fix begins.
                let pieces =
                    words.split(['{', '}', '"', '`']).map(|piece| piece.trim_matches([' ', ':']));
                let pieces = pieces.map(|piece| piece.split([';', ',']).next().unwrap().trim());
                let piece = pieces.max_by_key(|piece| piece.len()).unwrap();
                assert!(document.contains(piece), "src/{file}: {words:?} is not documented");
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "only {checked} faults were found");
}

/// One that `tests/all.rs` does not name is not compiled.
#[test]
fn every_file_of_tests_is_in_the_program_of_tests() {
    let program = read("tests/all.rs");
    let modules: BTreeSet<String> = program
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .map(|module| format!("{module}.rs"))
        .collect();
    let entries = std::fs::read_dir(root().join("tests")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files = names.filter(|name| name.ends_with(".rs") && name != "all.rs");
    let missing: Vec<String> = files.filter(|file| !modules.contains(file)).collect();
    assert!(missing.is_empty(), "tests/all.rs does not name {missing:?}");
}

#[test]
fn every_dependency_is_accounted_for() {
    let manifest = read("Cargo.toml");
    let mut needed = BTreeSet::new();
    let mut wanted = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            wanted = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| wanted) {
            needed.insert(name);
        }
    }
    let document = read("docs/DEPENDENCIES.md");
    let listed: BTreeSet<&str> = rows(&document)
        .filter(|cells| cells.len() == 4)
        .filter_map(|cells| code(cells[0]))
        .collect();
    assert_eq!(listed, needed);
}

/// docs/TABLE.md, as it must be.
fn tables_document() -> String {
    let mut text = "# The tables\n\n\
         A column whose value an event does not have is empty. The type in brackets is that in the \
         stream, where\nthe rule's transform makes another of it. This page is generated from the\n\
         tables that `src/table/mod.rs` lists: `UPDATE_DOCS=1 cargo test --test all docs::`\n\
         writes it again.\n"
        .to_owned();
    for table in TABLES {
        write!(
            text,
            "\n## {}\n\n\
             Rows are posted to the stream `{}`.\n\n\
             | column | type | from | meaning |\n|---|---|---|---|\n",
            table.name, table.stream
        )
        .unwrap();
        describe(table, &mut text);
    }
    text
}

/// A line for each column.
fn describe(table: &Table, text: &mut String) {
    for column in table.columns {
        let type_name = match column.stream_type == column.table_type {
            true => name_of(column.table_type).to_owned(),
            false => format!("{} ({})", name_of(column.table_type), name_of(column.stream_type)),
        };
        let from = match column.from {
            From::Field(field) => format!("`{field}`"),
            From::TimeOrArrival => match table.time_field {
                Some(field) => format!("`{field}`, or the time of arrival"),
                None => "the time of arrival".to_owned(),
            },
            From::Time => table.time_field.map(|field| format!("`{field}`")).unwrap_or_default(),
            From::Id => "the line".to_owned(),
            From::Rest => "the other fields".to_owned(),
        };
        let (name, meaning) = (column.name, column.description);
        writeln!(text, "| `{name}` | {type_name} | {from} | {meaning} |").unwrap();
    }
}

fn name_of(column: ColumnType) -> &'static str {
    match column {
        ColumnType::String => "string",
        ColumnType::Int => "int",
        ColumnType::Long => "long",
        ColumnType::Real => "real",
        ColumnType::Boolean => "boolean",
        ColumnType::Datetime => "datetime",
        ColumnType::Dynamic => "dynamic",
    }
}

#[test]
fn the_tables_document_is_the_tables() {
    let expected = tables_document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root().join("docs/TABLE.md"), &expected).unwrap();
    }
    let fix = "docs/TABLE.md is not the tables: run `UPDATE_DOCS=1 cargo test --test all docs::`";
    assert!(read("docs/TABLE.md") == expected, "{fix}");
}

#[test]
fn every_link_leads_to_a_file() {
    for name in ["README.md", "ARCHITECTURE.md"].into_iter().map(str::to_owned).chain(
        std::fs::read_dir(root().join("docs"))
            .unwrap()
            .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap())),
    ) {
        let text = read(&name);
        let folder = root().join(&name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = if file.is_empty() { root().join(&name) } else { folder.join(file) };
            assert!(path.exists(), "{name} links to {link}, which does not exist");
            let target = std::fs::read_to_string(&path).unwrap();
            let headings = target.lines().filter(|line| line.starts_with('#'));
            let anchors: Vec<String> = headings
                .map(|line| line.trim_start_matches('#').trim().to_lowercase())
                .map(|line| line.replace(' ', "-").replace(['`', '(', ')', ',', '\'', '.'], ""))
                .collect();
            let found = heading.is_empty() || anchors.iter().any(|anchor| anchor == heading);
            assert!(found, "{name} links to {link}, a heading that does not exist");
        }
    }
}

/// Who deploys reads docs/DEPLOY.md and the page of the way that is taken, each of two screens.
#[test]
fn each_way_to_deploy_is_a_page_of_two_screens() {
    let ways = ["DEPLOY.md", "DEPLOY-PORTAL.md", "DEPLOY-COMMAND.md", "DEPLOY-TENANTS.md"];
    let start = read("docs/DEPLOY.md");
    for way in ways {
        let lines = read(&format!("docs/{way}")).lines().count();
        assert!(lines <= 85, "docs/{way} has {lines} lines");
        assert!(way == "DEPLOY.md" || start.contains(&format!("]({way})")), "{way}");
    }
}

#[test]
fn what_stops_an_attack_is_there_and_so_is_its_test() {
    let document = read("docs/SECURITY.md");
    let (mut files, mut tests) = (0, 0);
    for words in document.split('`').skip(1).step_by(2) {
        let (file, name) = words.split_once("::").unwrap_or((words, ""));
        let tree = ["src/", "tests/", "arm/", "sentinel/", ".ci/"];
        if !tree.iter().any(|tree| file.starts_with(tree)) {
            continue;
        }
        let text = read(file);
        files += 1;
        if !name.is_empty() {
            let found = [format!("fn {name}("), format!("def {name}(")];
            assert!(found.iter().any(|found| text.contains(found)), "{words} is not there");
            tests += 1;
        }
    }
    assert!(files > 40 && tests > 30, "only {files} files and {tests} tests were found");
}

/// Calls this with each file below a folder that is, or may be, committed.
fn each_file(folder: &Path, check: &mut impl FnMut(&Path, &str)) {
    // What is made, and what is installed.
    const MADE: [&str; 5] = [".git", "target", "node_modules", ".venv", "__pycache__"];
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if MADE.iter().any(|made| name == *made || name.starts_with(".venv-")) {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            each_file(&entry.path(), check);
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            check(&entry.path(), &String::from_utf8_lossy(&bytes));
        }
    }
}

/// Anyone who registers such an account would supply what people deploy from there.
#[test]
fn no_file_names_an_account_that_nobody_owns() {
    let mut checked = 0;
    each_file(root(), &mut |path, text| {
        let text = text.to_lowercase();
        let name = "mimecast-sentinel";
        for address in ["github.com/", "githubusercontent.com/", "ghcr.io/"] {
            for address in [address.to_owned(), address.replace('/', "%2f")] {
                let named = text.contains(&format!("{address}{name}"));
                assert!(!named, "{} names an address under {address}{name}", path.display());
            }
        }
        assert!(!text.contains(&format!("{name}.github")), "{}", path.display());
        checked += 1;
    });
    assert!(checked > 200, "only {checked} files were looked through");
}

#[test]
fn no_script_of_an_npm_package_is_run() {
    let (mut calls, mut folders) = (0, 0);
    each_file(root(), &mut |path, text| {
        if path.file_name().unwrap() == "package-lock.json" {
            let settings = std::fs::read_to_string(path.with_file_name(".npmrc")).unwrap();
            let said = settings.lines().any(|line| line == "ignore-scripts=true");
            assert!(said, "{}: the .npmrc beside it has no ignore-scripts=true", path.display());
            folders += 1;
        }
        for verb in ["ci", "install", "i"].map(|verb| format!("npm {verb} ")) {
            for (at, _) in text.match_indices(&verb) {
                let found = text[at + verb.len()..].starts_with("--ignore-scripts");
                assert!(found, "{}: {verb}without --ignore-scripts", path.display());
                calls += 1;
            }
        }
    });
    assert!(calls >= 5 && folders >= 3, "only {calls} calls and {folders} folders were found");
}

#[test]
fn the_first_screen_of_the_readme_says_what_was_never_run() {
    let first_screen = read("README.md").lines().take(20).collect::<Vec<_>>().join("\n");
    let words = "no release is published; no line has met a live Mimecast tenant or Azure";
    assert!(on_one_line(&first_screen).contains(words), "{first_screen}");
}

#[test]
fn nothing_is_built_past_the_lock_file() {
    let mut checked = 0;
    for name in
        [".ci/run", "test", "arm/package", "release/static", ".github/workflows/release.yml"]
    {
        let text = read(name);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let resolves = ["build", "clippy", "deny", "doc", "install", "run", "test", "zigbuild"];
            let cargo = words.windows(2).find(|pair| pair[0].ends_with("cargo"));
            if cargo.is_some_and(|pair| resolves.contains(&pair[1])) {
                assert!(words.contains(&"--locked"), "{name}: {line}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 9, "only {checked} calls of cargo were found");
}

#[test]
fn what_proves_each_bound_is_there() {
    let document = read("docs/SEMANTICS.md");
    for (text, least) in [(&document, 10), (&read("docs/SCALE.md"), 2)] {
        let mut named = 0;
        for word in text.split('`').skip(1).step_by(2) {
            let Some((file, name)) = word.split_once("::") else { continue };
            let test = format!("fn {name}(");
            assert!(read(file).contains(&test), "there is no test {word}");
            named += 1;
        }
        assert!(named >= least, "only {named} tests are named");
    }
    for file in document.split("*(").skip(1).filter_map(|rest| rest.split(")*").next()) {
        let words = file.split([',', ' ', '\n']).filter(|word| word.contains(".rs"));
        for path in words {
            assert!(root().join(path).exists(), "{path} is not there");
        }
    }
    let faults = document.split("| fault |").nth(1).unwrap().split("\n\n").next().unwrap();
    for cells in rows(faults).skip(1) {
        assert_eq!(cells.len(), 4, "{cells:?}");
    }
}
