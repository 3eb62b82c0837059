//! What another account of the machine may have put where the state is, seen by the real binary:
//! nothing of it is followed, waited for, or read without end.
#![cfg(unix)]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use mimecast_sentinel::simulator::{FaultPlan, Simulator};

use crate::support::program::{Ended, Program, landed, simulator, skipped};

/// A stream's checkpoint, and the lock beside it.
const CHECKPOINT: &str = "checkpoints/mailflow.json";
const LOCK: &str = "checkpoints/mailflow.json.lock";

/// The program with the three streams' events waiting, and the folders of its state.
async fn program() -> (Simulator, Program) {
    let simulator = simulator(1, FaultPlan::none(), Duration::ZERO).await;
    let program = Program::of(&simulator);
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o700).create(program.state().join("checkpoints")).unwrap();
    (simulator, program)
}

/// The run refuses `place` for the reason `why`, and does the work of the other two streams.
async fn refused(simulator: &Simulator, program: &Program, place: &str, why: &str) {
    let run = program.run(&["pull", "--json"]).await;
    run.assert_code(3);
    let stream = &run.json()["streams"][1];
    assert_eq!(stream["error"]["code"], "store-refused", "{run:#?}");
    let message = stream["error"]["message"].as_str().unwrap();
    assert!(message.contains(why) && message.contains(place), "{message}");
    assert_eq!((&stream["events_read"], landed(simulator)), (&0.into(), 40), "{run:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_not_followed() {
    for place in [CHECKPOINT, LOCK] {
        let (simulator, program) = program().await;
        let (is_there, is_not) = (program.folder.path().join("a"), program.folder.path().join("b"));
        fs::write(&is_there, "{}").unwrap();
        for target in [&is_there, &is_not] {
            let link = program.state().join(place);
            symlink(target, &link).unwrap();
            // A dangling link is no checkpoint either.
            refused(&simulator, &program, place, "it is a link").await;
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_to_string(&is_there).unwrap(), "{}");
        assert!(!is_not.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_or_a_socket_is_not_waited_for() {
    for place in [CHECKPOINT, LOCK] {
        let (simulator, program) = program().await;
        let path = program.state().join(place);
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, 0o600.into(), 0).unwrap();
        refused(&simulator, &program, place, "it is a pipe, a socket or a device").await;
        fs::remove_file(&path).unwrap();
        let _socket = UnixListener::bind(&path).unwrap();
        refused(&simulator, &program, place, "it is a pipe, a socket or a device").await;
    }
}

/// Of 4 GiB, which take no place on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_larger_than_any_is_not_read() {
    let (simulator, program) = program().await;
    File::create(program.state().join(CHECKPOINT)).unwrap().set_len(4 << 30).unwrap();
    let why = "it has 4294967296 bytes, and more than 67108864 are not read";
    refused(&simulator, &program, CHECKPOINT, why).await;

    let shown = program.run(&["state", "show"]).await;
    shown.assert_code(1).assert_stderr(&[why]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_any_is_not_read() {
    let (_simulator, program) = program().await;
    let folder = program.state().join("quarantine/mailflow/00");
    fs::create_dir_all(&folder).unwrap();
    File::create(folder.join("a.json")).unwrap().set_len(4 << 30).unwrap();
    let listed = program.run(&["quarantine", "list"]).await;
    let why = "quarantine/mailflow/00/a.json: it has 4294967296 bytes";
    listed.assert_code(1).assert_stderr(&[why]);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn assert_warns(ended: &Ended, parts: &[&str]) {
    ended.assert_code(0).assert_stderr(parts);
    let warnings = ended.stderr.lines().filter(|line| line.contains(" WARN ")).count();
    assert_eq!(warnings, usize::from(!parts.is_empty()), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_others_can_change_is_warned_of() {
    let (_simulator, program) = program().await;
    assert_warns(&program.run(&["pull"]).await, &[]);
    for folder in [program.state(), program.state().join("checkpoints")] {
        for (open, is_open) in [(0o777, true), (0o1777, true), (0o775, false)] {
            mode(&folder, open);
            let fix = format!("chmod o-w '{}'", folder.display());
            let parts = [" WARN every account of this machine can write", &*fix];
            let parts = if is_open { &parts[..] } else { &[] };
            assert_warns(&program.run(&["pull"]).await, parts);
            assert_warns(&program.run(&["state", "show"]).await, parts);
        }
        mode(&folder, 0o700);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_account_is_warned_of() {
    let (_simulator, program) = program().await;
    let state = program.state();
    if std::os::unix::fs::chown(&state, Some(54_321), None).is_err() {
        skipped("a folder of another account, since only the superuser can give one away");
        return;
    }
    let ours = rustix::process::geteuid().as_raw();
    let fix = format!("chown -R {ours} '{}'", state.display());
    let parts = ["belongs to another account (uid 54321)", &*fix];
    assert_warns(&program.run(&["pull"]).await, &parts);
}
