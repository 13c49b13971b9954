//! The plugins of this run: probed, loaded before anything else, and given on to the processes that the run starts.

use std::hash::Hasher;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use qiao::core::registry::Listing;
use qiao::core::{Backend, Error};
use qiao::plugin::{self, Finding, Options, probe};

use crate::args::Plugins;

/// How long a plugin may take to be loaded, to start its driver and to say what it has.
const PROBE: Duration = Duration::from_secs(60);

/// What a program that is started again is told of plugins that were probed.
const PROBED: &str = "--probed";

/// What the command line says of plugins, for this program started again.
static GIVEN: OnceLock<Vec<String>> = OnceLock::new();

/// The backends of plugins whose driver or chip is not on this machine, and why.
static ABSENT: OnceLock<Vec<(String, Error)>> = OnceLock::new();

/// Loads the plugins of the command line; gives the name of the first one's backend, if there is one. One that is not present is
/// a backend without devices.
///
/// Each plugin is first loaded in a process of its own: one that crashes, hangs or exits is an error and not the end of this
/// program.
pub(crate) fn load(args: &Plugins) -> anyhow::Result<Option<String>> {
    let given = Options::parse(&args.option)?;
    let options = if args.probed { given } else { given.with_before(probed) };
    plugin::configure(options.clone());
    let mut again: Vec<String> = args.option.iter().map(|o| format!("--option={o}")).collect();
    let (mut first, mut absent) = (None, Vec::new());
    for path in &args.plugin {
        let name = match plugin::load(path, &options) {
            Ok(backend) => backend.name().to_string(),
            Err(Error::NotPresent { what, why }) => {
                absent.push((what.clone(), Error::not_present(&what, why)));
                what
            }
            Err(other) => return Err(other.into()),
        };
        first.get_or_insert(name);
        again.push(format!("--plugin={}", path.display()));
    }
    again.push(PROBED.into());
    ABSENT.set(absent).ok();
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

/// The backends of plugins that are not present.
pub(crate) fn absent() -> impl Iterator<Item = Listing> {
    let all = ABSENT.get().into_iter().flatten();
    all.map(|(backend, why)| Listing { backend: backend.clone(), devices: Err(why.clone()) })
}

/// What a run tests beyond the device itself: the program, and every plugin with its options. Results of other words are those of
/// another run.
pub(crate) fn setup() -> Vec<String> {
    let mut setup = vec![program()];
    for word in named() {
        let bytes = word.strip_prefix("--plugin=").map(|path| format!(" of {}", contents(Path::new(path))));
        setup.push(word + &bytes.unwrap_or_default());
    }
    for found in plugin::discover() {
        let library = match &found.what {
            Finding::Manifest(manifest) => &manifest.library,
            Finding::Library => &found.place,
            _ => continue,
        };
        setup.push(format!("{} of {}", library.display(), contents(library)));
    }
    setup
}

/// Which build of this program runs.
fn program() -> String {
    let found = std::env::current_exe().and_then(std::fs::metadata);
    let made = found.as_ref().ok().and_then(|f| f.modified().ok()?.duration_since(UNIX_EPOCH).ok());
    match (found, made) {
        (Ok(found), Some(made)) => format!("qiao of {} bytes, made at {:.9}", found.len(), made.as_secs_f64()),
        _ => "qiao".into(),
    }
}

/// A file's size and a hash of its bytes.
fn contents(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let mut hash = std::hash::DefaultHasher::new();
            hash.write(&bytes);
            format!("{} bytes, hash {:016x}", bytes.len(), hash.finish())
        }
        Err(e) => format!("unknown bytes: {e}"),
    }
}

/// This program again, with the same plugins.
pub(crate) fn again() -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(GIVEN.get().into_iter().flatten());
    Ok(command)
}
