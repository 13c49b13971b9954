//! How the command ends: documented codes, and which error has which.

use std::process::ExitCode;

use qiao::core::Error;

/// The exit codes, as `--help` and the README list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Failure = 1,
    Usage = 2,
    NotPresent = 3,
    OutOfLimits = 4,
    Interrupted = 130,
}

/// The table of `--help`.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    done
  1    the run failed: a bad checkpoint, a bad prompt, a failing device;
       compare --against: the devices part; report: something became worse
  2    the command line is wrong
  3    the device is not present on this machine
  4    compare --golden: a figure is past its limit
  130  interrupted by Ctrl-C; what was done until then is printed";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A command line that clap accepts and that is wrong all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// A device that the program knows and the machine lacks, or that no backend has.
#[derive(Debug, thiserror::Error)]
#[error("device '{name}' is not present: {why}")]
pub(crate) struct NotPresent {
    pub(crate) name: String,
    pub(crate) why: String,
}

/// The code for an error, by what stands in its chain.
pub(crate) fn code(error: &anyhow::Error) -> Exit {
    if error.is::<Usage>() {
        return Exit::Usage;
    }
    let absent = |cause: &Error| matches!(cause, Error::NotPresent { .. });
    if error.is::<NotPresent>() || device_error(error).is_some_and(absent) {
        return Exit::NotPresent;
    }
    Exit::Failure
}

/// The device's error in a chain. An error that shows another in its place has none of its own.
fn device_error(error: &anyhow::Error) -> Option<&Error> {
    error.chain().find_map(|cause| match cause.downcast_ref::<qiao::Error>() {
        Some(qiao::Error::Device(device)) => Some(device),
        _ => cause.downcast_ref(),
    })
}

/// How operators run that a device refuses.
pub(crate) const FALLBACK: &str = "--fallback host runs them on the processor";

/// The error in one line; with the mend for operators that a device refuses, where the command has one that was not given.
pub(crate) fn told(error: &anyhow::Error, may_fall_back: bool) -> String {
    match device_error(error) {
        Some(Error::Unsupported { .. }) if may_fall_back => format!("{}; {FALLBACK}", line(error)),
        _ => line(error),
    }
}

/// The error and its causes in one line. A cause whose words the line before it holds already is left out.
fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_are_told_once_and_in_one_line() {
        let error = anyhow::anyhow!("the disk\nis full").context("can't write: the disk is full").context("saving");
        assert_eq!(line(&error), "saving: can't write: the disk is full");
    }

    #[test]
    fn codes_follow_from_what_went_wrong() {
        let usage = Err::<(), _>(Usage("no prompt".into())).context("run").unwrap_err();
        assert_eq!(code(&usage), Exit::Usage);
        let absent = anyhow::Error::new(NotPresent { name: "npu".into(), why: "no backend has it".into() });
        assert_eq!(code(&absent), Exit::NotPresent);
        for absent in
            [Error::not_present("npu", "no chip").into(), qiao::Error::from(Error::not_present("npu", "")).into()]
        {
            assert_eq!(code(&absent), Exit::NotPresent);
        }
        assert_eq!(code(&anyhow::anyhow!("other")), Exit::Failure);
        for exit in [Exit::Ok, Exit::Failure, Exit::Usage, Exit::NotPresent, Exit::OutOfLimits, Exit::Interrupted] {
            assert!(TABLE.contains(&format!("\n  {} ", exit as u8)), "{exit:?}");
        }
    }
}
