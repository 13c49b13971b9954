//! The plugins of this run: probed, loaded before anything else, and given on to the processes that the run starts.

use std::ffi::OsString;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
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
struct Given {
    options: Vec<String>,
    /// The names of backends, and their files.
    plugins: Vec<(String, PathBuf)>,
}

static GIVEN: OnceLock<Given> = OnceLock::new();

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
    let (mut plugins, mut absent) = (Vec::new(), Vec::new());
    for path in &args.plugin {
        let name = match plugin::load(path, &options) {
            Ok(backend) => backend.name().to_string(),
            Err(Error::NotPresent { what, why }) => {
                absent.push((what.clone(), Error::not_present(&what, why)));
                what
            }
            Err(other) => return Err(other.into()),
        };
        plugins.push((name, path.clone()));
    }
    let first = plugins.first().map(|(name, _)| name.clone());
    ABSENT.set(absent).ok();
    GIVEN.set(Given { options: args.option.clone(), plugins }).ok();
    Ok(first)
}

/// Loads a plugin in a process of its own.
fn probed(path: &Path, options: &Options) -> Result<(), Error> {
    probe::in_child(child(options.pairs().map(|(key, value)| format!("--option={key}={value}")))?, path, PROBE)
        .map(|_| ())
}

/// This program with these options, about to probe a plugin.
fn child(options: impl Iterator<Item = String>) -> Result<Command, Error> {
    let program = std::env::current_exe().map_err(|e| Error::internal("this program", e.to_string()))?;
    let mut child = Command::new(program);
    child.args(options).arg("probe-plugin");
    Ok(child)
}

/// The part of the process in which a plugin is probed.
pub(crate) fn answer(path: &Path, rules: bool, args: &Plugins) -> anyhow::Result<()> {
    let options = Options::parse(&args.option)?;
    if rules {
        probe::answer_rules(path, &options)
    } else {
        probe::answer(path, &options)
    }
    Ok(())
}

/// The rules of the header that the plugin of a device breaks and that no case can see; none where it is of no plugin of the
/// command line. They are tried in a process of their own.
pub(crate) fn broken_rules(device: &str) -> Vec<String> {
    let backend = device.split(':').next().unwrap_or(device);
    let given = GIVEN.get().and_then(|given| given.plugins.iter().find(|(name, _)| name == backend));
    let Some((_, path)) = given else { return Vec::new() };
    let found = child(Given::options()).and_then(|mut child| {
        child.arg("--rules");
        probe::broken_rules(child, path, PROBE)
    });
    found.unwrap_or_else(|error| vec![error.to_string()])
}

impl Given {
    /// The options as the command line has them.
    fn options() -> impl Iterator<Item = String> {
        GIVEN.get().into_iter().flat_map(|given| &given.options).map(|option| format!("--option={option}"))
    }

    /// The files of plugins.
    fn plugins() -> impl Iterator<Item = &'static Path> {
        GIVEN.get().into_iter().flat_map(|given| &given.plugins).map(|(_, path)| path.as_path())
    }
}

/// A plugin as the command line has it, for people.
fn named_plugin(path: &Path) -> String {
    format!("--plugin={}", path.display())
}

/// The plugins and options of the command line, for people.
pub(crate) fn named() -> Vec<String> {
    Given::options().chain(Given::plugins().map(named_plugin)).collect()
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
    setup.extend(Given::options());
    setup.extend(Given::plugins().map(|path| format!("{} of {}", named_plugin(path), contents(path))));
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
    command.args(Given::options());
    for path in Given::plugins() {
        let mut word = OsString::from("--plugin=");
        word.push(path);
        command.arg(word);
    }
    command.arg(PROBED);
    Ok(command)
}
