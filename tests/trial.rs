//! What README.md and the documents have people type, typed: each block of shell as it is, with an
//! `az` that knows the real client's commands and options (`tests/azure-cli`), and the real program
//! against the simulator.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use mimecast_sentinel::simulator::{FaultPlan, Simulator};
use serde_json::{Value, json};

use crate::support::program::{
    EXE, Ended, Program, assert_no_secret, ended, events, landed, simulator,
};

const RULE: &str = "/subscriptions/s/resourceGroups/mimecast/providers/Microsoft.Insights/\
                    dataCollectionRules/mimecastci-x";
const WORKSPACE: &str = "/subscriptions/s/resourceGroups/soc/providers/\
                         Microsoft.OperationalInsights/workspaces/contoso-sentinel";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of shell in a text, without the indent that a list gives them.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(indent) = line.strip_suffix("```sh").filter(|indent| indent.trim().is_empty())
        else {
            continue;
        };
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        let block: Vec<&str> =
            block.map(|line| line.strip_prefix(indent).unwrap_or(line)).collect();
        blocks.push(block.join("\n") + "\n");
    }
    blocks
}

/// The part of README.md under this heading.
fn section(heading: &str) -> String {
    let text = read("README.md");
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The text between backquotes that begins with `az`.
fn commands_in_text(text: &str) -> String {
    let spans = text.split('`').skip(1).step_by(2);
    let commands = spans.filter(|span| span.starts_with("az ") || span.starts_with("az\n"));
    commands.map(|span| span.replace('\n', " ") + "\n").collect()
}

/// What a shell did, in the program's folder, and each call of `az`.
struct Typed {
    program: Program,
    ended: Ended,
    calls: Vec<Vec<String>>,
}

/// Types lines into bash, in the program's folder, where a clone of the repository would be; it stops
/// at the first that fails. `typed_in` is what a person answers, `az_says` what `az` prints: command,
/// `--query`, text.
async fn type_in(program: Program, lines: &str, typed_in: &str, az_says: &[[&str; 3]]) -> Typed {
    let folder = program.folder.path().to_owned();
    fs::create_dir(folder.join("bin")).unwrap();
    symlink(root().join("tests/azure-cli/az"), folder.join("bin/az")).unwrap();
    symlink(root().join("arm"), folder.join("arm")).unwrap();
    let answers: String = az_says.iter().map(|answer| answer.join("\t") + "\n").collect();
    for (name, text) in [
        ("answers.tsv", &*answers),
        ("calls", ""),
        ("refused", ""),
        ("typed-in", typed_in),
        ("lines.sh", lines),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let program = program
        .set("PATH", &format!("{}:{path}", folder.join("bin").display()))
        .set("HOME", folder.to_str().unwrap())
        .set("FAKE_AZ", folder.to_str().unwrap())
        .set("EXE", EXE);
    let mut bash = program.wrapped(&["bash", "-eu", "lines.sh"]);
    let bash = bash.stdin(fs::File::open(folder.join("typed-in")).unwrap()).spawn().unwrap();
    let ended = ended(bash).await;
    assert_eq!(fs::read_to_string(folder.join("refused")).unwrap(), "", "{ended:#?}");
    let calls = fs::read_to_string(folder.join("calls")).unwrap();
    let calls = calls.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    assert_eq!(ended.code, 0, "{ended:#?}");
    Typed { program, ended, calls }
}

/// What follows an option, up to the next.
fn values<'a>(call: &'a [String], option: &str) -> Vec<&'a str> {
    let after = call.iter().skip_while(|argument| *argument != option).skip(1);
    after.take_while(|argument| !argument.starts_with('-')).map(String::as_str).collect()
}

/// The parameters of a template, JSON or Bicep, and whether each may be left out.
fn parameters_of(file: &str) -> BTreeMap<String, bool> {
    let text = read(file);
    if file.ends_with(".bicep") {
        let lines = text.lines().filter_map(|line| line.strip_prefix("param "));
        let declared = lines.map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            (name.to_owned(), rest.contains('=') || rest.ends_with('?'))
        });
        return declared.collect();
    }
    let template: Value = serde_json::from_str(&text).unwrap();
    let declared = template["parameters"].as_object().unwrap().iter().map(|(name, parameter)| {
        // For a secret that is missing the client asks, and does not show it.
        let asked_for = parameter["type"] == "securestring";
        (name.clone(), asked_for || parameter.get("defaultValue").is_some())
    });
    declared.collect()
}

/// The parameters and outputs that a call has of a template are that template's.
fn assert_of_the_template(call: &[String]) {
    let template: Value = serde_json::from_str(&read("arm/azuredeploy.json")).unwrap();
    if let Some(output) = values(call, "--query").first().and_then(|query| {
        query.strip_prefix("properties.outputs.").and_then(|rest| rest.strip_suffix(".value"))
    }) {
        assert!(template["outputs"][output].is_object(), "no output {output}: {call:?}");
    }
    let given = values(call, "--parameters");
    if given.is_empty() || given[0].starts_with('@') {
        return;
    }
    let given: BTreeSet<&str> = given.iter().map(|one| one.split('=').next().unwrap()).collect();
    let declared = parameters_of(values(call, "--template-file")[0]);
    for name in &given {
        assert!(declared.contains_key(*name), "no parameter {name}: {call:?}");
    }
    for (name, may_be_left_out) in &declared {
        assert!(*may_be_left_out || given.contains(&**name), "without {name}: {call:?}");
    }
}

/// A token as `az account get-access-token` prints one, which the simulator knows.
async fn token_of_a_person(simulator: &Simulator) -> String {
    let asked = reqwest::Client::new()
        .get(simulator.identity_endpoint())
        .query(&[("api-version", "2019-08-01"), ("resource", "https://monitor.azure.com")])
        .header("X-IDENTITY-HEADER", simulator.identity_header());
    let issued = asked.send().await.unwrap().bytes().await.unwrap();
    let issued: Value = serde_json::from_slice(&issued).unwrap();
    let expires_on: i64 = issued["expires_on"].as_str().unwrap().parse().unwrap();
    json!({"accessToken": issued["access_token"], "expires_on": expires_on, "tokenType": "Bearer"})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trial_of_the_readme_works_word_for_word() {
    let simulator = simulator(2, FaultPlan::none(), Duration::ZERO).await;
    let trial = blocks(&section("Run it against your tenant")).concat();
    assert!(!trial.contains(['…', '<']), "something is left to be filled in:\n{trial}");
    // The program is built already, as it is tested.
    let build = "cargo() {
        [ \"$*\" = 'build --release --locked' ]
        mkdir -p target/release
        ln -s \"$EXE\" target/release/mimecast-sentinel
    }\n";
    let typed_in = format!(
        "{}\n{}\ncontoso-sentinel\nsoc\nwesteurope\n",
        simulator.client_id(),
        simulator.client_secret()
    );
    let token = token_of_a_person(&simulator).await;
    let az_says = [
        ["monitor log-analytics workspace show", "id", WORKSPACE],
        ["deployment group show", "properties.outputs.dataCollectionRuleId.value", RULE],
        ["ad signed-in-user show", "id", "an object id"],
        ["resource show", "properties.endpoints.logsIngestion", simulator.url()],
        ["resource show", "properties.immutableId", simulator.rule_id()],
        ["account get-access-token", "-", &token],
    ];
    // What the real tenant already has.
    let program =
        Program::bare().set("MIMECAST_BASE_URL", simulator.url()).set("START_DATE", "2020-01-01");
    let typed = type_in(program, &(build.to_owned() + &trial), &typed_in, &az_says).await;

    assert_eq!(landed(&simulator), events(2), "{:#?}", typed.ended);
    let dry = typed.ended.stdout.lines().filter(|line| line.starts_with("{\"")).count();
    assert_eq!(dry, 10, "`head` shows ten rows: {:#?}", typed.ended);
    assert_no_secret(&simulator, &typed.ended.said());
    let state = typed.program.folder.path().join("mimecast-sentinel-state");
    assert!(state.join("checkpoints").is_dir());

    for call in &typed.calls {
        assert_of_the_template(call);
        assert!(!call.iter().any(|argument| argument.contains(simulator.client_secret())));
    }
    let of = |command: &str| -> Vec<&Vec<String>> {
        let words: Vec<&str> = command.split(' ').collect();
        typed.calls.iter().filter(|call| call.iter().zip(&words).all(|(a, b)| a == b)).collect()
    };
    assert_eq!(typed.calls[0], ["login"]);
    let [deployed] = of("deployment group create")[..] else { panic!("{:?}", typed.calls) };
    assert!(values(deployed, "--parameters").contains(&"PackageUri="), "{deployed:?}");
    let workspace = format!("WorkspaceResourceId={WORKSPACE}");
    assert!(values(deployed, "--parameters").contains(&&*workspace), "{deployed:?}");
    // One role, on the rule alone, for the signed-in user.
    let [role] = of("role assignment create")[..] else { panic!("{:?}", typed.calls) };
    assert_eq!(values(role, "--role"), ["Monitoring Metrics Publisher"]);
    assert_eq!(values(role, "--scope"), [RULE]);
    assert_eq!(values(role, "--assignee"), ["an object id"]);
    for shown in of("resource show") {
        assert_eq!(values(shown, "--ids"), [RULE]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_documents_is_one_of_the_azure_cli() {
    let program = Program::bare();
    let folder = program.folder.path().to_owned();
    let example = root().join("arm/tenants/example/contoso.parameters.json");
    symlink(example, folder.join("contoso.parameters.json")).unwrap();
    // Each command of the program's is one that it has.
    let ours = "mimecast-sentinel() { \"$EXE\" \"$@\" --help >/dev/null; }\n";
    let mut lines = ours.to_owned();
    // In an order in which what one has set is there for the next.
    for name in [
        "docs/DEPLOY-PORTAL.md",
        "docs/DEPLOY-DETAILS.md",
        "docs/OPERATIONS.md",
        "docs/UPGRADE.md",
        "docs/TROUBLESHOOTING.md",
    ] {
        lines += &blocks(&read(name)).concat();
    }
    lines += &commands_in_text(&read("README.md"));
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        lines += &commands_in_text(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let typed = type_in(program, &lines, "", &[]).await;
    for call in &typed.calls {
        assert_of_the_template(call);
    }
    let commands: BTreeSet<String> = typed
        .calls
        .iter()
        .map(|call| call.iter().take_while(|word| !word.starts_with('-')).cloned().collect())
        .collect();
    assert!(commands.len() >= 20, "only {commands:?}");
}

/// Each of these the real client refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_or_option_that_the_azure_cli_does_not_have_is_refused() {
    for (line, words) in [
        ("az log-in", "there is no such command"),
        ("az group crate --name x --location y", "there is no such command"),
        ("az group create --name x --region y", "unrecognized arguments: --region"),
        ("az group create --name x", "required: --location"),
        ("az group create --name --location y", "--name takes 1 values"),
        ("az functionapp stop --name x", "required: --resource-group"),
        ("az group shows --name x", "there is no such command"),
        ("az group create -n x -l y -o text", "--output is one of: json"),
        ("az deployment group create -g x -f none.json", "No such file: none.json"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let az = root().join("tests/azure-cli/az");
        let shell = tokio::process::Command::new("bash")
            .args(["-c", &line.replacen("az", "\"$AZ\"", 1)])
            .env("AZ", az)
            .env("FAKE_AZ", folder.path())
            .output()
            .await
            .unwrap();
        assert_eq!(shell.status.code(), Some(2), "{line}");
        let refused = fs::read_to_string(folder.path().join("refused")).unwrap();
        assert!(refused.contains(words), "{line}: {refused}");
    }
}
