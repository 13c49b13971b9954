//! The `qiao` command: text from a checkpoint on whatever chip is present.
//!
//! Results go to standard output, everything else to standard error. Exit codes are those of `exit`.
#![forbid(unsafe_code)]

mod exit;
mod files;
mod terminal;

mod args;

mod interrupt;
mod load;
mod plugins;
mod scaffold;

mod answer;

mod bench_model;
mod bench_ops;
mod bench_serve;
mod chat;
mod check;
mod lockstep;

mod compare;
mod devices;
mod eval;
mod plan;
mod prepack;
mod quantize;
mod report;
mod run;

mod adapt;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Bench, Command, CommandLine};
use crate::exit::Exit;
use crate::terminal::{Output, tell_line};

fn main() -> ExitCode {
    let mut args = CommandLine::parse();
    let result = interrupt::install().and_then(|()| {
        if let Command::ProbePlugin { path, rules } = &args.command {
            return plugins::answer(path, *rules, &args.plugins).map(|()| Exit::Ok);
        }
        args.command.prefer(plugins::load(&args.plugins)?);
        let out: &mut dyn Write = &mut Output::new();
        match &args.command {
            Command::Devices(args) => devices::devices(args, out),
            Command::Run(args) => run::run(args, out),
            Command::Compare(args) => compare::compare(args, out),
            Command::Eval(args) => eval::eval(args, out),
            Command::Bench(Bench::Model(args)) => bench_model::model(args, out),
            Command::Bench(Bench::Serve(args)) => bench_serve::serve(args, out),
            Command::Bench(Bench::Ops(args)) => bench_ops::ops(args, out),
            Command::Adapt(args) => adapt::adapt(args, out),
            Command::Check(args) => check::check(args, out),
            Command::Plan(args) => plan::plan(args, out),
            Command::Prepack(args) => prepack::prepack(args, out),
            Command::Quantize(args) => quantize::quantize(args, out),
            Command::Report(args) => report::report(args, out),
            Command::NewBackend(args) => scaffold::new_backend(args, out),
            Command::ProbePlugin { .. } => Ok(Exit::Ok),
        }
    });
    match result {
        Ok(exit) => exit.into(),
        // Whoever read the output has seen enough.
        Err(error) if is_closed_pipe(&error) => Exit::Ok.into(),
        Err(error) => {
            tell_line(&format!("error: {}", exit::told(&error, args.command.may_fall_back())));
            exit::code(&error).into()
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
