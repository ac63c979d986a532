//! `tollbook explain`.
//!
//! Invariant: the denial comes whole from an enforcer or from a file, and the ledger is read only once it
//! is there. Deliberately absent: the verdict, which the domain works out again, and what is shown.

use std::io::{self, BufWriter, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ::enforcer::DenialView;
use reports::explain::{ExplainArgs, Explained};
use serde_json::Value;
use service::{Exit, Failure};
use store::Role;

use super::policy;
use crate::arguments::ExplainArguments;
use crate::client::{self, Answer};
use crate::config::Settings;
use crate::output::{self, Format, Grid};

/// The most of a file that is read: a denial has some 50 KiB at most.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) async fn run(
    settings: &Settings,
    arguments: &ExplainArguments,
) -> Result<Exit, Failure> {
    let denial = match (&arguments.id, &arguments.file) {
        (Some(id), _) => fetch(settings, arguments, id).await?,
        (None, Some(file)) => match read(file)? {
            Given::Denial(denial) => denial,
            Given::Id(id) => fetch(settings, arguments, &id).await?,
        },
        (None, None) => return list(settings, arguments).await,
    };
    let denial = denial.read().map_err(|error| {
        Failure::new(Exit::Usage, format!("the denial cannot be read: {error}"))
    })?;
    let configured = match denial.version.0 {
        0 => Some(Arc::new(policy::of_files(settings)?)),
        _ => None,
    };
    let args = ExplainArgs {
        denial,
        configured,
        series_max: arguments.limit.try_into().unwrap_or(usize::MAX).max(1),
        zone: super::report::zone(settings, arguments.zone.as_deref())?,
        output: arguments.output.output.into(),
        width: output::width(),
    };
    let db = super::open(settings, Role::Reports).await?;
    let explained = reports::explain::run(&db, &args, &mut BufWriter::new(io::stdout())).await;
    match explained {
        Ok(Explained::Agrees) => Ok(Exit::Ok),
        Ok(Explained::Differs) => Ok(Exit::Data),
        Err(error) => super::of_report(settings, &error),
    }
}

/// What a file holds.
enum Given {
    /// A denial, as `/v1/denials` tells it.
    Denial(Box<DenialView>),
    /// A decision's answer, which names its denial.
    Id(String),
}

/// Reads a denial from a file, or from standard input.
fn read(file: &Path) -> Result<Given, Failure> {
    let name = file.display();
    let refuse = |problem: String| Failure::new(Exit::Usage, format!("--file: {name} {problem}"));
    let unreadable = |error: io::Error| refuse(format!("cannot be read ({error}); name another"));
    let mut bytes = Vec::new();
    // One byte more than there may be says that there are more.
    let bound = FILE_BYTES_MAX.saturating_add(1);
    let read = if file == Path::new("-") {
        io::stdin().take(bound).read_to_end(&mut bytes)
    } else {
        let file = std::fs::File::open(file).map_err(unreadable)?;
        file.take(bound).read_to_end(&mut bytes)
    };
    read.map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(bound) >= bound {
        let mib = FILE_BYTES_MAX / (1024 * 1024);
        return Err(refuse(format!(
            "has more than {mib} MiB, which no denial has; name another"
        )));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|error| refuse(format!("is no text ({error}); name another")))?;
    let no_denial = |error: serde_json::Error| {
        let problem = "is no denial, as /v1/denials/ID of an enforcer tells one";
        refuse(format!("{problem} ({error})"))
    };
    let value: Value = serde_json::from_str(&text).map_err(no_denial)?;
    if let Some(id) = value.get("denial").and_then(Value::as_str) {
        return Ok(Given::Id(id.to_owned()));
    }
    // From the text, since a value does not keep the order of a key.
    let denial = serde_json::from_str(&text).map_err(no_denial)?;
    Ok(Given::Denial(Box::new(denial)))
}

async fn fetch(
    settings: &Settings,
    arguments: &ExplainArguments,
    id: &str,
) -> Result<Box<DenialView>, Failure> {
    let enforcer = enforcer(settings, arguments)?;
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    if id.is_empty() || !id.chars().all(is_id) {
        return Err(super::of_flag(
            "explain",
            &format!(
                "\"{id}\" is no denial's id; take one from an answer's `denial` or from `tollbook explain`"
            ),
        ));
    }
    let answer = get(&enforcer, &format!("/v1/denials/{id}")).await?;
    if answer.status == 404 {
        let sentence = format!(
            "the enforcer at {enforcer} does not keep the denial {id}: it keeps its own, the newest \
             enforcer.denials_kept of them; ask the replica that refused, or give the denial with --file"
        );
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let denial = serde_json::from_slice(&told(&enforcer, answer)?.body);
    denial
        .map(Box::new)
        .map_err(|error| not_ours(&enforcer, &error.to_string()))
}

/// Lists the latest denials, to choose from.
async fn list(settings: &Settings, arguments: &ExplainArguments) -> Result<Exit, Failure> {
    let enforcer = enforcer(settings, arguments)?;
    let mut path = format!("/v1/denials?limit={}", arguments.limit.clamp(1, 1_000));
    for (name, value) in [("app", &arguments.app), ("policy", &arguments.policy)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", client::encoded(value)));
        }
    }
    let answer = told(&enforcer, get(&enforcer, &path).await?)?;
    let page: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| not_ours(&enforcer, &error.to_string()))?;
    let denials = page["denials"].as_array();
    let denials = denials.ok_or_else(|| not_ours(&enforcer, "no `denials`"))?;
    let format = arguments.output.output;
    let columns = [
        "id",
        "at",
        "reason",
        "policy",
        "limit",
        "key",
        "used",
        "asked",
        "limit_value",
    ];
    let mut grid = Grid::new(&columns);
    for denial in denials {
        grid.row(columns.iter().map(|column| match *column {
            "key" if format != Format::Json => Value::from(key_text(&denial["key"])),
            column => denial[column].clone(),
        }));
    }
    grid.print(format, "no denials are kept")?;
    if format == Format::Table && !denials.is_empty() {
        output::print("`tollbook explain ID` explains one of them")?;
    }
    Ok(Exit::Ok)
}

fn key_text(key: &Value) -> String {
    let members = key.as_object().into_iter().flatten();
    let members = members.map(|(name, value)| {
        let value = value.as_str().unwrap_or("(missing)");
        format!("{name}={value}")
    });
    members.collect::<Vec<_>>().join(", ")
}

/// Returns where the enforcer answers: the flag, else where the settings let it listen.
fn enforcer(settings: &Settings, arguments: &ExplainArguments) -> Result<client::Origin, Failure> {
    if let Some(url) = &arguments.enforcer {
        return client::Origin::parse(url).map_err(|error| super::of_flag("--enforcer", &error));
    }
    let http = &settings.config().enforcer.http;
    let refuse = || {
        let sentence = format!(
            "enforcer.http is {http}, which nobody can be asked at; name the enforcer with --enforcer"
        );
        Failure::new(Exit::Usage, sentence)
    };
    let address: SocketAddr = http.parse().map_err(|_unreadable| refuse())?;
    if address.port() == 0 {
        return Err(refuse());
    }
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Ok(client::Origin::of(SocketAddr::new(ip, address.port())))
}

async fn get(enforcer: &client::Origin, path: &str) -> Result<Answer, Failure> {
    client::get(enforcer, path).await.map_err(|error| {
        let sentence = format!(
            "the enforcer at {enforcer} does not answer ({error}): start it, or name another with --enforcer"
        );
        Failure::new(Exit::Dependency, sentence)
    })
}

/// Passes on what an enforcer tells; a refusal becomes its sentence.
fn told(enforcer: &client::Origin, answer: Answer) -> Result<Answer, Failure> {
    match answer.status {
        200 => Ok(answer),
        status => {
            let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or("no reason is told");
            let sentence = format!("the enforcer at {enforcer} answers {status}: {detail}");
            let exit = if status < 500 {
                Exit::Usage
            } else {
                Exit::Dependency
            };
            Err(Failure::new(exit, sentence))
        }
    }
}

fn not_ours(enforcer: &client::Origin, what: &str) -> Failure {
    let sentence = format!(
        "{enforcer} tells no denials ({what}): name an enforcer of this version with --enforcer"
    );
    Failure::new(Exit::Usage, sentence)
}
