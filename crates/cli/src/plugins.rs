//! The plugins of this run: probed, loaded before anything else, and given on to the processes that the run starts.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use qiao::core::{Backend, Error};
use qiao::plugin::{self, Options, probe};

use crate::args::Plugins;

/// How long a plugin may take to be loaded, to start its driver and to say what it has.
const PROBE: Duration = Duration::from_secs(60);

/// What a program that is started again is told of plugins that were probed.
const PROBED: &str = "--probed";

/// What the command line says of plugins, for this program started again.
static GIVEN: OnceLock<Vec<String>> = OnceLock::new();

/// Loads the plugins of the command line; gives the name of the first one's backend, if there is one.
///
/// Each plugin is first loaded in a process of its own: one that crashes, hangs or exits is an error and not the end of this
/// program.
pub(crate) fn load(args: &Plugins) -> anyhow::Result<Option<String>> {
    let given = Options::parse(&args.option)?;
    let options = if args.probed { given } else { given.with_before(probed) };
    plugin::configure(options.clone());
    let mut again: Vec<String> = args.option.iter().map(|o| format!("--option={o}")).collect();
    let mut first = None;
    for path in &args.plugin {
        let backend = plugin::load(path, &options)?;
        first.get_or_insert_with(|| backend.name().to_string());
        again.push(format!("--plugin={}", path.display()));
    }
    again.push(PROBED.into());
    GIVEN.set(again).ok();
    Ok(first)
}

/// Loads a plugin in a process of its own.
fn probed(path: &Path, options: &Options) -> Result<(), Error> {
    let program = std::env::current_exe().map_err(|e| Error::internal("this program", e.to_string()))?;
    let mut child = Command::new(program);
    child.args(options.pairs().map(|(key, value)| format!("--option={key}={value}"))).arg("probe-plugin");
    probe::in_child(child, path, PROBE).map(|_| ())
}

/// The part of the process in which a plugin is probed.
pub(crate) fn answer(path: &Path, args: &Plugins) -> anyhow::Result<()> {
    probe::answer(path, &Options::parse(&args.option)?);
    Ok(())
}

/// The plugins and options of the command line.
pub(crate) fn named() -> Vec<String> {
    GIVEN.get().into_iter().flatten().filter(|word| *word != PROBED).cloned().collect()
}

/// This program again, with the same plugins.
pub(crate) fn again() -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(GIVEN.get().into_iter().flatten());
    Ok(command)
}
