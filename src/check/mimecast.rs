//! Rung 2: Mimecast's token, the listing of each stream, and the host of its files.

use super::hosts::{Hosts, reach_rung};
use super::{Given, NOT_REACHED, PATIENCE, Rung, Rungs, Tools, Verdict, WRONG_SETTINGS};
use crate::http::reach;
use crate::pipeline::Source as _;
use crate::pipeline::source::Part;
use crate::seams::Deadline;
use crate::settings::{SecretSettings, SourceName};
use crate::sources::mimecast::{MimecastSource, SOURCE};

const NO_SECRET: &str = "there is no client secret";

pub(super) async fn rungs(
    given: &Given,
    source: Option<&MimecastSource>,
    hosts: &Hosts,
    tools: &Tools<'_>,
    rungs: &mut Rungs<'_>,
) {
    if !given.sources.contains(&SourceName::CloudIntegrated) {
        return;
    }
    let (Some(settings), Some(source)) = (&given.mimecast, source) else {
        rungs.push(Rung::skipped("mimecast", WRONG_SETTINGS).of_source(SOURCE));
        return;
    };
    let mut push = |rung: Rung| rungs.push(rung.of_source(SOURCE));
    if !hosts.reached(&settings.base_url) {
        return push(Rung::skipped("mimecast", NOT_REACHED));
    }
    if let Some(tried) = where_secret_is(&settings.client_secret) {
        if let SecretSettings::Vault(secret) = &settings.client_secret
            && !hosts.reached(&secret.url)
        {
            push(Rung::skipped("mimecast/secret", NOT_REACHED));
            return push(Rung::skipped("mimecast/token", NO_SECRET));
        }
        if let Err(why) = source.read_secret().await {
            push(Rung::fault("mimecast/secret", tried, why));
            return push(Rung::skipped("mimecast/token", NO_SECRET));
        }
        push(Rung::ok("mimecast/secret", tried, "read"));
    }
    let tried = format!("an access token for application {}", settings.client_id);
    if let Err(why) = source.sign_in(Deadline::after(PATIENCE)).await {
        push(Rung::interrupt("mimecast/token", tried, why));
        return push(Rung::skipped("mimecast/listing", "there is no token"));
    }
    push(Rung::ok("mimecast/token", tried, "granted"));
    let since = settings.start_date;
    let mut newest = None;
    for stream in source.streams() {
        let rung = format!("mimecast/listing/{}", stream.name);
        let tried = format!("the listing of {} since {since}", stream.name);
        push(match source.page(&stream, None, Deadline::after(PATIENCE)).await {
            Ok(mut page) => {
                let files = page.parts.len();
                newest = page.parts.pop().or(newest);
                let more = if page.caught_up { "" } else { ", and there may be more" };
                Rung::ok(rung, tried, format!("batch files: {files}{more}"))
            }
            Err(why) => Rung::interrupt(rung, tried, why),
        });
    }
    push(match newest {
        Some(part) => file_host(source, &part, tools).await,
        None => Rung::skipped("mimecast/files", "no batch file was listed"),
    });
}

/// Where the secret is read, if it is not in the environment.
fn where_secret_is(secret: &SecretSettings) -> Option<String> {
    match secret {
        SecretSettings::Given(_) => None,
        SecretSettings::File(path) => Some(format!("the file {}", path.display())),
        SecretSettings::Vault(secret) => Some(format!("the key vault's {}", secret.url)),
    }
}

/// The host of a file. The file itself is not asked for.
async fn file_host(source: &MimecastSource, part: &Part, tools: &Tools<'_>) -> Rung {
    match source.host_of(part).await {
        Ok(url) => {
            let answer = reach(&tools.clients.files, &url).await;
            reach_rung("mimecast/files", &url, "what the listing says", &answer)
        }
        Err(fault) => Rung {
            // What the listing says does not change by itself.
            verdict: Verdict::Fail,
            ..Rung::fault("mimecast/files", "the address of a batch file", fault)
        },
    }
}
