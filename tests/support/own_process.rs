//! A test in a process of its own: this program, started again for that test alone.

use std::process::Command;

/// Set in a process that [`alone`] started.
const ALONE: &str = "TEST_ALONE";

/// What this program takes to run one test and no other, with what it prints; `module` is the
/// test's `module_path!()`.
pub fn args(module: &str, test: &str) -> [String; 3] {
    // The harness names a test without its crate.
    let (_, module) = module.split_once("::").unwrap();
    ["--exact".to_owned(), format!("{module}::{test}"), "--nocapture".to_owned()]
}

/// Whether this process is the test's own. If not, one is, now; it must end well, and there is
/// nothing more to do.
pub fn alone(module: &str, test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(args(module, test)).env(ALONE, "1").output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && stdout.contains("test result: ok. 1 passed");
    assert!(passed, "{}\n{stdout}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    false
}
