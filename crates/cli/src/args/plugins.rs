//! The parts of the command line that are about plugins.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Bench, Command};

/// Plugins, for every command.
#[derive(Args)]
pub(crate) struct Plugins {
    /// A vendor's plugin, a shared library. Its first device is the one that is used, unless --device names another. May be given
    /// several times.
    #[arg(long, value_name = "FILE", global = true, help_heading = "Plugins")]
    pub(crate) plugin: Vec<PathBuf>,
    /// An option for the plugins, as its vendor documents it. May be given several times.
    #[arg(long, value_name = "KEY=VALUE", global = true, help_heading = "Plugins")]
    pub(crate) option: Vec<String>,
    /// The plugins were probed by whoever started this program.
    #[arg(long, hide = true, global = true)]
    pub(crate) probed: bool,
}

/// `qiao new-backend`.
#[derive(Args)]
pub(crate) struct NewBackend {
    /// The backend's name: a-z, 0-9 and _. It becomes the name of files, crate and device.
    pub(crate) name: String,
    /// The language.
    #[arg(long, value_enum, default_value_t = Lang::C)]
    pub(crate) lang: Lang,
    /// Where it goes; without it, a folder of that name.
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// With --lang rust: the checkout of Qiao to build against; without it, the one that this program was built from.
    #[arg(long, value_name = "DIR")]
    pub(crate) qiao: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    C,
    Rust,
}

/// Whether the command line names a device. The default does not count.
pub(crate) fn device_given() -> bool {
    std::env::args_os().any(|a| a == "--device" || a.as_encoded_bytes().starts_with(b"--device="))
}

impl Command {
    /// Puts this backend in place of the default device. Devices that were named stay, however many.
    pub(crate) fn prefer(&mut self, backend: Option<String>) {
        let Some(backend) = backend.filter(|_| !device_given()) else { return };
        match self {
            Command::Run(args) => args.on.device = backend,
            Command::Compare(args) => args.on.device = backend,
            Command::Bench(Bench::Model(args)) => args.device = backend,
            Command::Bench(Bench::Serve(args)) => args.device = vec![backend],
            Command::Bench(Bench::Ops(args)) => args.device = backend,
            Command::Adapt(args) => args.device = backend,
            Command::Check(args) => args.device = backend,
            Command::Plan(args) => args.device = backend,
            Command::Eval(args) => args.device = backend,
            Command::Prepack(args) => args.device = backend,
            Command::Devices(_)
            | Command::Quantize(_)
            | Command::Report(_)
            | Command::NewBackend(_)
            | Command::ProbePlugin { .. } => {}
        }
    }
}
