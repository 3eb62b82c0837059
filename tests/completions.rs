//! `completions`, as a shell uses it.
#![cfg(unix)]

use crate::support::program::{EXE, Ended, Program, ended, skipped};

/// Completes the words that follow, as bash does at the Tab key.
const AT_TAB: &str = r#"
source <("$EXE" completions bash) || exit
read -ra registered <<<"$(complete -p mimecast-sentinel)"
for ((n = 0; n < ${#registered[@]}; n++)); do
    [ "${registered[n]}" != -F ] || function=${registered[n + 1]}
done
COMP_WORDS=(mimecast-sentinel "$@") COMP_CWORD=$#
"$function" mimecast-sentinel "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
echo "${COMPREPLY[@]}"
"#;

async fn bash(words: &[&str]) -> Ended {
    let line = [&["bash", "-c", AT_TAB, "bash"], words].concat();
    let path = std::env::var_os("PATH").unwrap();
    ended(Program::bare().wrapped(&line).env("EXE", EXE).env("PATH", path).spawn().unwrap()).await
}

#[tokio::test]
async fn bash_completes_a_command_what_is_under_it_and_a_flag() {
    if std::process::Command::new("bash").arg("--version").output().is_err() {
        return skipped("completions in bash, which is not here");
    }
    let cases: [(&[&str], &str); 4] = [
        (&["quar"], "quarantine"),
        (&["quarantine", "rep"], "replay"),
        (&["pull", "--dry"], "--dry-run"),
        (&["skip", "--checkp"], "--checkpoint-url"),
    ];
    for (words, completed) in cases {
        let ended = bash(words).await;
        ended.assert_code(0);
        assert_eq!((ended.stdout.trim_end(), &*ended.stderr), (completed, ""), "{words:?}");
    }
}

#[tokio::test]
async fn no_shell_is_given_a_setting_of_this_machine() {
    let program = Program::bare()
        .set("MIMECAST_CLIENT_SECRET", "canary")
        .set("MIMECAST_CLIENT_ID", "canary")
        .set("CHECKPOINT_URL", "https://canary.blob.core.windows.net/c?sig=canary");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = program.run(&["completions", shell]).await;
        ended.assert_code(0);
        assert!(ended.stdout.contains("quarantine"), "{shell}: {}", ended.stdout);
        assert!(!ended.said().contains("canary"), "{shell}");
    }
    program.run(&["completions", "tcsh"]).await.assert_code(2).assert_stderr(&["bash, elvish"]);
}
