//! What `doctor` asks Postgres.

use service::{Clock as _, Exit, SystemClock};
use store::checkup::{self, IdsHeld, RoleFound, Server};
use store::{Database, Role, gap};

use super::Examination;
use crate::commands::of_store;
use crate::config::Settings;

/// The oldest Postgres that is supported, as `server_version_num`.
const VERSION_LEAST: i32 = 150_000;

/// How far the clocks may differ before reports and watermarks read oddly, in ms.
const SKEW_MAX_MS: i64 = 2_000;

/// What one id costs on disk, in bytes, where there are too few to tell: measured over two million that came under
/// load. At rest rows have fewer ids: one that has a row for itself costs seven times as much.
const BYTES_PER_ID: u64 = 18;

/// So many ids tell what one costs.
const TELLING_IDS: u64 = 100_000;

/// How many days ids of log lines are kept.
const ID_DAYS: u64 = 3;

/// Looks at the server, the schema, the roles, and what is stopped.
pub(super) async fn examine(settings: &Settings, examination: &mut Examination) {
    let url = &settings.config().database.url;
    let before = SystemClock.now_unix_ms();
    let server = match checkup::server(url).await {
        Ok(server) => server,
        Err(error) => {
            examination.stopped("Postgres", &of_store(settings, &error));
            return;
        }
    };
    let after = SystemClock.now_unix_ms();
    examine_server(examination, &server);
    examine_clock(examination, &server, before, after);
    examine_roles(examination, &server.roles);
    let db = match Database::open(url, Role::Ingest).await {
        Ok(db) => db,
        Err(error) => {
            examination.stopped("schema", &of_store(settings, &error));
            return;
        }
    };
    examination.ok("schema", "is the one that this program needs");
    match gap::list(&db).await {
        Ok(gaps) => examine_gaps(examination, &gaps),
        Err(error) => examination.stopped("gaps", &of_store(settings, &error)),
    }
    match checkup::ids_held(&db).await {
        Ok(held) => examination.ok("ids seen", &describe_ids(held)),
        Err(error) => examination.stopped("ids seen", &of_store(settings, &error)),
    }
}

fn examine_server(examination: &mut Examination, server: &Server) {
    let what = format!("Postgres at {}", server.address);
    if server.version_num < VERSION_LEAST {
        let found = format!(
            "is version {}; Tollbook needs 15 or newer: upgrade it",
            server.version
        );
        examination.fail(Exit::Configuration, &what, &found);
    } else {
        examination.ok(&what, &format!("version {}", server.version));
    }
    for name in &server.durability_off {
        let found = format!(
            "{name} is off: a crash of its machine may lose or spoil the ledger; set {name} = on"
        );
        examination.warn(&what, &found);
    }
    if !server.is_encrypted && !server.is_local {
        examination.warn(
            &what,
            "is reached without TLS; add ?sslmode=verify-full to database.url",
        );
    }
}

fn examine_clock(examination: &mut Examination, server: &Server, before: i64, after: i64) {
    let now = server.now.get();
    // What lies between asking and the answer is no skew.
    let skew = if now < before {
        before.saturating_sub(now)
    } else {
        now.saturating_sub(after).max(0)
    };
    if skew > SKEW_MAX_MS {
        let found = format!("this machine and Postgres differ by {skew} ms; run NTP on both");
        examination.warn("clocks", &found);
    } else {
        examination.ok("clocks", "this machine and Postgres agree");
    }
}

fn examine_roles(examination: &mut Examination, roles: &[RoleFound]) {
    let lacking: Vec<&str> = roles
        .iter()
        .filter(|role| !role.is_granted)
        .map(|role| role.name.as_str())
        .collect();
    if !lacking.is_empty() {
        let found = format!(
            "{} do not exist or are not granted to this login, so services work with its own rights: one that is broken into could change the journal's tables, and reports see all tenants; run `tollbook migrate` as a login that may create roles",
            lacking.join(", ")
        );
        examination.warn("roles", &found);
        return;
    }
    let ingest = roles.iter().find(|role| role.name == "tollbook_ingest");
    let found = if ingest.is_some_and(|role| !role.bypasses_row_security) {
        "each service has its own; tollbook_ingest passes row-level security by its policies"
    } else {
        "each service has its own"
    };
    examination.ok("roles", found);
}

fn examine_gaps(examination: &mut Examination, gaps: &[gap::Gap]) {
    let open: Vec<String> = gaps
        .iter()
        .filter(|gap| gap.accepted.is_none())
        .map(|gap| format!("{}/{}", gap.topic, gap.partition))
        .collect();
    if open.is_empty() {
        examination.ok("gaps", "no partition is stopped");
    } else {
        let found = format!(
            "{} stopped: their logs lost records or were replaced; see `tollbook gaps list`, then `tollbook gaps accept`",
            open.join(", ")
        );
        examination.fail(Exit::Data, "gaps", &found);
    }
}

fn describe_ids(held: IdsHeld) -> String {
    let bytes_per_id = if held.ids >= TELLING_IDS {
        held.bytes.div_ceil(held.ids)
    } else {
        BYTES_PER_ID
    };
    let expected = held
        .accepted_last_day
        .saturating_mul(ID_DAYS)
        .saturating_mul(bytes_per_id);
    format!(
        "about {} ids take {}; at the last day's {} events, {ID_DAYS} days of them take {}",
        held.ids,
        megabytes(held.bytes),
        held.accepted_last_day,
        megabytes(expected)
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
