//! What `./test` says at its end, with programs in the place of cargo and of the suites that print
//! what those were seen to print.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::script;

/// What a shell script uses; nothing else is found on its `PATH`.
const TOOLS: [&str; 9] = ["bash", "cat", "dirname", "grep", "mktemp", "rm", "sort", "tail", "tee"];

/// The parts beside cargo's that count their tests.
const SUITES: [&str; 5] = ["kql", "workbook", "arm", "page", "homes"];

const CARGO_PASSES: &str = "
     Running unittests src/lib.rs (target/debug/deps/mimecast_sentinel-0)

running 2 tests
test one ... ok
test two ... ignored

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/all.rs (target/debug/deps/all-0)

running 2 tests
test state::in_azure::on_azurite ... SKIPPED: Azurite is not installed
ok
test three ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

const CARGO_FAILS: &str = "
     Running unittests src/lib.rs (target/debug/deps/mimecast_sentinel-0)

running 2 tests
test pipeline::tests::one ... FAILED
test two ... ok

failures:

---- pipeline::tests::one stdout ----
thread 'pipeline::tests::one' panicked at src/pipeline.rs:1:5:
    an indented line of what it printed

failures:
    pipeline::tests::one

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `--lib`
     Running unittests src/main.rs (target/debug/deps/mimecast_sentinel-1)

running 1 test
error: test failed, to rerun pass `--bin mimecast-sentinel`

Caused by:
  process didn't exit successfully: `target/debug/deps/mimecast_sentinel-1` (signal: 6, SIGABRT)
     Running tests/all.rs (target/debug/deps/all-0)

running 3 tests
test state::quarantine::three ... FAILED
test tls::four ... FAILED
test tls::five ... ok

failures:

---- state::quarantine::three stdout ----
thread 'state::quarantine::three' panicked at tests/state.rs:1:5:

failures:
    state::quarantine::three
    tls::four

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

const SUITE: &str = "ok   a query binds\nSKIPPED: no geography here\n1 passed, 0 failed";

/// A folder with `./test` and what it calls.
struct Stage {
    folder: TempDir,
}

/// How `./test` ended.
struct Ended {
    code: i32,
    lines: Vec<String>,
}

impl Stage {
    /// On which all passes, but without npm and Python.
    fn new() -> Self {
        let stage = Self { folder: TempDir::new().unwrap() };
        let test = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("test")).unwrap();
        script::write(&stage.folder.path().join("test"), &test);
        fs::create_dir(stage.folder.path().join("bin")).unwrap();
        for tool in TOOLS {
            let path = std::env::var_os("PATH").unwrap();
            let mut found = std::env::split_paths(&path).map(|folder| folder.join(tool));
            let found = found.find(|path| path.exists()).expect(tool);
            symlink(found, stage.folder.path().join("bin").join(tool)).unwrap();
        }
        let stage = SUITES
            .iter()
            .fold(stage, |stage, suite| stage.with(&format!("tests/{suite}/run"), SUITE, "exit 0"));
        stage.with("bin/cargo", CARGO_PASSES, "echo \"cargo $*\"")
    }

    /// With a program at this path that prints `text` and then does `end`.
    fn with(self, path: &str, text: &str, end: &str) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        script::write(&path, &format!("#!/usr/bin/env bash\ncat <<'END'\n{text}\nEND\n{end}\n"));
        self
    }

    fn run(&self, args: &[&str]) -> Ended {
        let output = Command::new(self.folder.path().join("test"))
            .args(args)
            .env_clear()
            .env("PATH", self.folder.path().join("bin"))
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        Ended { code: output.status.code().unwrap(), lines }
    }
}

impl Ended {
    /// What the table has of a part: passed, failed, skipped.
    fn counts(&self, part: &str) -> [u64; 3] {
        let start = self.lines.iter().position(|line| line.starts_with("part ")).unwrap();
        let rows = self.lines[start..].iter().map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = rows.into_iter().find(|row| row[0] == part).unwrap();
        assert_eq!(row.len(), 5, "{row:?}");
        [1, 2, 3].map(|column| row[column].parse().unwrap())
    }

    fn last(&self) -> &str {
        self.lines.last().unwrap()
    }
}

#[test]
fn all_parts_are_in_one_table_after_what_was_skipped() {
    let ended = Stage::new().run(&[]);
    assert_eq!(ended.code, 0, "{:#?}", ended.lines);
    // One is ignored, one said that it was skipped, which the harness takes for passed.
    assert_eq!(ended.counts("rust"), [2, 0, 2]);
    for suite in SUITES {
        assert_eq!(ended.counts(suite), [1, 0, 1]);
    }
    assert_eq!(ended.counts("docs/SCALE.md"), [0, 0, 1]);
    assert_eq!(ended.counts("total"), [7, 0, 8]);
    let table = ended.lines.iter().position(|line| line.starts_with("part ")).unwrap();
    let skipped: Vec<&str> = ended.lines[..table]
        .iter()
        .rev()
        .map(String::as_str)
        .take_while(|line| *line != "=== summary")
        .collect();
    assert_eq!(
        skipped,
        [
            "SKIPPED: the tables of docs/SCALE.md, since there is no python3",
            "SKIPPED: no geography here",
            "SKIPPED: Azurite is not installed, since there is no npm: install Node.js 20",
            "SKIPPED: Azurite is not installed",
        ]
    );
    assert!(ended.last().starts_with("total "));
}

#[test]
fn failed_tests_are_named_in_the_last_lines_and_so_is_a_program_that_died() {
    let ended = Stage::new().with("bin/cargo", CARGO_FAILS, "exit 101").run(&[]);
    assert_eq!(ended.code, 1);
    assert_eq!(ended.counts("rust"), [2, 4, 0]);
    assert_eq!(ended.counts("total")[1], 4);
    // Those of tests/all.rs by the file that a person opens.
    assert_eq!(
        ended.lines[ended.lines.len() - 4..],
        [
            "FAILED: rust: src/lib.rs: pipeline::tests::one",
            "FAILED: rust: src/main.rs: ended without a result",
            "FAILED: rust: tests/state.rs: quarantine::three",
            "FAILED: rust: tests/tls.rs: four",
        ]
    );
}

#[test]
fn what_does_not_compile_failed() {
    let text = "error[E0308]: mismatched types\n --> tests/tls.rs:1:1\nerror: could not compile \
                `mimecast-sentinel` (test \"all\") due to 1 previous error\nwarning: build failed";
    let ended = Stage::new().with("bin/cargo", text, "exit 101").run(&["--test", "all"]);
    assert_eq!((ended.code, ended.counts("rust")), (1, [0, 1, 0]));
    assert!(
        ended.last().ends_with(
            "could not compile `mimecast-sentinel` (test \"all\") due to 1 previous error"
        )
    );
}

#[test]
fn a_missing_cargo_failed() {
    let stage = Stage::new();
    fs::remove_file(stage.folder.path().join("bin/cargo")).unwrap();
    let ended = stage.run(&[]);
    assert_eq!((ended.code, ended.counts("rust")), (1, [0, 1, 0]));
    assert!(ended.last().starts_with("FAILED: rust: ended with exit code 127: "));
    assert!(ended.last().ends_with("cargo: command not found"), "{}", ended.last());
}

#[test]
fn a_suite_that_fails_or_dies_is_named() {
    let fails =
        "ok   one\nFAIL rules/ThreatSpike.yaml binds\n     it gives no table\n1 passed, 1 failed";
    let ended = Stage::new().with("tests/kql/run", fails, "exit 1").run(&[]);
    assert_eq!((ended.code, ended.counts("kql")), (1, [1, 1, 0]));
    assert_eq!(ended.last(), "FAILED: kql: rules/ThreatSpike.yaml binds");

    // Killed before it could count, ended well without counting, counted well and ended badly.
    for (text, end, failed, said) in [
        ("ok   one", "kill -KILL $$", 1, "ended without a count, with exit code 137"),
        ("ok   one", "exit 0", 1, "ended without a count, with exit code 0"),
        ("FAIL one", "exit 1", 2, "ended without a count, with exit code 1"),
        ("1 passed, 0 failed", "exit 3", 1, "ended with exit code 3: 1 passed, 0 failed"),
    ] {
        let ended = Stage::new().with("tests/arm/run", text, end).run(&[]);
        assert_eq!((ended.code, ended.counts("arm")[1]), (1, failed), "{text} {end}");
        assert_eq!(ended.last(), format!("FAILED: arm: {said}"));
    }
}

#[test]
fn arguments_are_cargos_and_leave_the_rest_out() {
    let ended = Stage::new().run(&["--test", "all", "--", "a name"]);
    assert_eq!(ended.code, 0);
    let called = "cargo test --locked --no-fail-fast --test all -- a name";
    assert!(ended.lines.iter().any(|line| line == called), "{:#?}", ended.lines);
    assert!(!ended.lines.iter().any(|line| line.starts_with("kql")));
    assert_eq!(ended.counts("total"), ended.counts("rust"));
}
