//! State on a share: file systems that do less than a local one, or something else. The real binary
//! sees them through `tests/support/share.c`, which is loaded before it.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mimecast_sentinel::simulator::{FaultPlan, Simulator};

use crate::support::program::{Program, events, landed, simulator, skipped};

/// The library, built again; `None`, with a line that says so, where nothing can make it.
fn share() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/share.c");
    let made = tempfile::Builder::new().suffix(".so").tempfile_in(env!("CARGO_TARGET_TMPDIR"));
    let (_, made) = made.unwrap().keep().unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&made).arg(&source).status();
    let Ok(status) = compiled else {
        skipped("the ways of shares, since there is no cc");
        return None;
    };
    assert!(status.success(), "{} does not compile", source.display());
    Some(made)
}

/// The program with its state on a share of these ways.
async fn on_share(ways: &str) -> Option<(Simulator, Program, Library)> {
    let library = Library(share()?);
    let simulator = simulator(2, FaultPlan::none(), Duration::ZERO).await;
    let path = library.0.display().to_string();
    let program = Program::of(&simulator).set("LD_PRELOAD", &path).set("SHARE", ways);
    Some((simulator, program, library))
}

/// Removed with the test.
struct Library(PathBuf);

impl Drop for Library {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// `fsync` of a folder is `EINVAL` there.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_syncs_no_folders_and_sets_times_late_is_as_good_as_another() {
    for ways in ["no-folder-sync", "late-times", "no-folder-sync late-times"] {
        let Some((simulator, program, _library)) = on_share(ways).await else { return };
        let first = program.run(&["pull", "--json"]).await;
        first.assert_code(0);
        assert_eq!(first.json()["outcome"], "caught_up", "{ways}: {first:#?}");
        assert_eq!(landed(&simulator), events(2), "{ways}");
        let again = program.run(&["pull", "--json"]).await;
        again.assert_code(0);
        assert_eq!(simulator.landed_count(), events(2), "{ways}: nothing twice");
    }
}

/// What is not on the disk is not recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_is_passed_over_for_no_file_and_for_no_other_reason() {
    for ways in ["no-file-sync", "broken-folder-sync"] {
        let Some((_simulator, program, _library)) = on_share(ways).await else { return };
        let run = program.run(&["pull", "--json"]).await;
        run.assert_code(1);
        assert_eq!(run.json()["streams"][0]["error"]["code"], "store-failed", "{ways}: {run:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_whose_locks_cannot_be_relied_on_is_refused_at_once() {
    for (ways, why) in [
        ("changing-inodes", "shows another file each time it is asked"),
        ("no-locks", "does not lock files"),
    ] {
        let Some((simulator, program, _library)) = on_share(ways).await else { return };
        let run = program.run(&["pull", "--json"]).await;
        run.assert_code(2).assert_stderr(&[why, "checkpoints/<stream>.json.lock", "mailflow"]);
        for stream in run.json()["streams"].as_array().unwrap() {
            let (name, error) = (stream["stream"].as_str().unwrap(), &stream["error"]);
            let lock = format!("checkpoints/{name}.json.lock");
            assert!(error["message"].as_str().unwrap().contains(&lock), "{run:#?}");
            assert_eq!(error["code"], "store-refused", "{run:#?}");
        }
        assert_eq!(simulator.landed_count(), 0, "{ways}");
    }
}
