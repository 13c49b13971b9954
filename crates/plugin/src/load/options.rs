//! What the user tells a plugin, and where the plugin's words go.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Error, Result};

use crate::abi;
use crate::export::Level;

/// The level of a number at the boundary; an unknown one is the least grave.
pub(super) fn level(number: u32) -> Level {
    match number {
        abi::LOG_ERROR => Level::Error,
        abi::LOG_WARN => Level::Warn,
        abi::LOG_INFO => Level::Info,
        _ => Level::Debug,
    }
}

/// The level that a user names; one that is not known is the middle.
fn named(name: &str) -> Level {
    match name.to_ascii_lowercase().as_str() {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "debug" | "trace" => Level::Debug,
        _ => Level::Info,
    }
}

/// Takes the lines of a plugin's log: the plugin's name, the level, one line of text. Called from any thread.
pub type Log = Arc<dyn Fn(&str, Level, &str) + Send + Sync>;

/// Looks at a plugin's file before it is loaded; an error refuses it.
pub type Before = Arc<dyn Fn(&Path, &Options) -> Result<()> + Send + Sync>;

/// How long a device may keep a call waiting where nobody says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// How a plugin is loaded: `key=value` pairs for the plugin itself, and what the host does around it.
#[derive(Clone)]
pub struct Options {
    pairs: Vec<(String, String)>,
    /// How long a call may wait for the device, unless [`qiao_core::Stream::set_patience`] says otherwise.
    pub timeout: Duration,
    /// Takes the plugin's log. `None`: to stderr, from the level up that `QIAO_LOG` names, and nowhere without it.
    pub log: Option<Log>,
    /// Looks at the file before it is loaded, e.g. with [`super::probe`].
    pub before: Option<Before>,
}

impl Default for Options {
    fn default() -> Self {
        Options { pairs: Vec::new(), timeout: TIMEOUT, log: None, before: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("pairs", &self.pairs).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Options {
    /// Reads `key=value` texts.
    ///
    /// # Errors
    /// A text that is none, a key that can't be one, or a key that is given twice.
    pub fn parse<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Options> {
        let mut options = Options::default();
        for text in texts {
            let text = text.as_ref();
            let Some((key, value)) = text.split_once('=') else {
                return Err(Error::invalid("plugin option", format!("'{text}'"), "write it as key=value"));
            };
            if options.get(key).is_some() {
                let found = format!("'{key}' is given twice");
                return Err(Error::invalid("plugin option", found, "give each key once"));
            }
            options.set(key, value)?;
        }
        Ok(options)
    }

    /// Sets a key, in place of what it had.
    ///
    /// # Errors
    /// A key that can't be one, or a value with a NUL.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if key.is_empty() || key.len() > 64 || !key.bytes().all(good) {
            let mend = "use up to 64 letters, digits, '.', '_' and '-'";
            return Err(Error::invalid("plugin option", format!("key {key:?}"), mend));
        }
        if value.contains('\0') {
            return Err(Error::invalid("plugin option", format!("{key}={value:?} holds a NUL"), "leave it out"));
        }
        self.pairs.retain(|(k, _)| k != key);
        self.pairs.push((key.into(), value.into()));
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Every pair, in order.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The same with another bound on waits.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Options {
        self.timeout = timeout;
        self
    }

    /// The same with somebody who takes the log.
    #[must_use]
    pub fn with_log(mut self, log: impl Fn(&str, Level, &str) + Send + Sync + 'static) -> Options {
        self.log = Some(Arc::new(log));
        self
    }

    /// The same with somebody who looks at the file before it is loaded.
    #[must_use]
    pub fn with_before(mut self, before: impl Fn(&Path, &Options) -> Result<()> + Send + Sync + 'static) -> Options {
        self.before = Some(Arc::new(before));
        self
    }

    /// Where log lines go.
    pub(super) fn sink(&self) -> Log {
        if let Some(log) = &self.log {
            return log.clone();
        }
        let least = std::env::var("QIAO_LOG").ok().filter(|v| !v.is_empty()).map(|name| named(&name));
        Arc::new(move |plugin, level, text| {
            if least.is_some_and(|least| level <= least) {
                eprintln!("{plugin} {level:?}: {text}");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_replaced() {
        let mut options = Options::parse(["sim.fault=oom:3", "a=", "b=x=y"]).unwrap();
        assert_eq!(options.get("sim.fault"), Some("oom:3"));
        assert_eq!((options.get("a"), options.get("b"), options.get("c")), (Some(""), Some("x=y"), None));
        options.set("a", "1").unwrap();
        assert_eq!(options.pairs().collect::<Vec<_>>(), [("sim.fault", "oom:3"), ("b", "x=y"), ("a", "1")]);
        assert_eq!(options.timeout, TIMEOUT);
    }

    #[test]
    fn what_is_no_pair_is_refused_with_its_mend() {
        for (texts, part) in [
            (vec!["novalue"], "write it as key=value"),
            (vec!["=1"], "letters, digits"),
            (vec!["k y=1"], "letters, digits"),
            (vec!["k=1", "k=2"], "given twice"),
            (vec!["k=a\0b"], "NUL"),
        ] {
            let error = Options::parse(&texts).unwrap_err().to_string();
            assert!(error.contains(part), "{texts:?}: {error}");
        }
    }
}
