//! `tollbook completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;
use service::{Exit, Failure};

use crate::arguments::Arguments;
use crate::output;

pub(super) fn run(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        shell,
        &mut Arguments::command(),
        crate::PROGRAM,
        &mut script,
    );
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
