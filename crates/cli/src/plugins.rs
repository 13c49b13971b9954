//! The plugins of this run: loaded before anything else, and given on to the processes that the run starts.

use std::process::Command;
use std::sync::OnceLock;

use qiao::core::Backend;
use qiao::plugin::{self, Options};

use crate::args::Plugins;

/// What the command line says of plugins, for this program started again.
static GIVEN: OnceLock<Vec<String>> = OnceLock::new();

/// Loads the plugins of the command line; gives the name of the first one's backend, if there is one.
pub(crate) fn load(args: &Plugins) -> anyhow::Result<Option<String>> {
    let options = Options::parse(&args.option)?;
    let mut again: Vec<String> = args.option.iter().map(|o| format!("--option={o}")).collect();
    let mut first = None;
    for path in &args.plugin {
        let backend = plugin::load(path, &options)?;
        first.get_or_insert_with(|| backend.name().to_string());
        again.push(format!("--plugin={}", path.display()));
    }
    GIVEN.set(again).ok();
    Ok(first)
}

/// This program again, with the same plugins.
pub(crate) fn again() -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(GIVEN.get().into_iter().flatten());
    Ok(command)
}
