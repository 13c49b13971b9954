//! The first call: who is there, what does it speak, and do the two understand each other.

use qiao_core::{Error, Result};

use super::calls::{Padded, overrun};
use super::failure::Failure;
use super::slots::{Slots, copied};
use super::words;
use crate::abi::{self, ErrorRecord, Query, QueryFn, Sized32};

/// A plugin that was asked and understood.
pub(super) struct Asked {
    pub(super) slots: Slots,
    pub(super) name: String,
    pub(super) vendor: String,
    pub(super) version: String,
    /// The minor of the header that it was built with.
    pub(super) minor: u32,
    /// What the host does in place of what it does not have, and what is odd about it.
    pub(super) notes: Vec<String>,
}

/// The name that a backend may have: `[a-z0-9_-]{1,31}`.
pub(super) fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=31).contains(&name.len()) && name.bytes().all(good)
}

fn sanitizer(number: u32) -> &'static str {
    match number {
        abi::SANITIZER_NONE => "no sanitizer",
        abi::SANITIZER_ADDRESS => "the address sanitizer",
        abi::SANITIZER_MEMORY => "the memory sanitizer",
        abi::SANITIZER_THREAD => "the thread sanitizer",
        _ => "a sanitizer that this host does not know",
    }
}

/// The sanitizer that this process runs with.
pub(super) fn sanitizer_here() -> u32 {
    let runtimes = [
        (c"__asan_init", abi::SANITIZER_ADDRESS),
        (c"__msan_init", abi::SANITIZER_MEMORY),
        (c"__tsan_init", abi::SANITIZER_THREAD),
    ];
    let here = runtimes.iter().find(|(symbol, _)| {
        // SAFETY: a look-up of a name in what is loaded.
        !unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) }.is_null()
    });
    here.map_or(abi::SANITIZER_NONE, |(_, number)| *number)
}

/// Asks a plugin and checks what it says. `place` is where it comes from, for errors.
///
/// # Safety
/// `query` is the exported function of a plugin and keeps the contract of the header.
pub(super) unsafe fn ask(query: QueryFn, place: &str, sanitizer_of_host: u32) -> Result<Asked> {
    let mut q = Padded::new(Query { host_minor: abi::MINOR, host_min_minor: abi::MIN_PLUGIN_MINOR, ..Query::sized() });
    let mut record = Padded::new(ErrorRecord::sized());
    // SAFETY: both structs are the callee's to fill for the call.
    let status = unsafe { query(q.place(), record.place()) };
    let nonsense = |found: String| {
        Error::invalid(
            format!("plugin {place}"),
            found,
            "mend what its qiao_plugin_query_v0 gives; PORTING.md says what stands where",
        )
    };
    for (what, beyond) in [("the qiao_query", q.beyond()), ("the qiao_error", record.beyond())] {
        if beyond > 0 {
            return Err(nonsense(format!("its query {}", overrun(beyond, what))));
        }
    }
    let (q, record) = (q.own(), record.own());
    if status != abi::OK {
        return Err(refusal(place, &q, &Failure::of(abi::QUERY_SYMBOL, status, &record)));
    }
    if q.struct_size as usize != size_of::<Query>() {
        return Err(nonsense(format!("its query changed struct_size of qiao_query to {}", q.struct_size)));
    }
    versions(place, &q)?;
    let name = words::text(&q.name);
    if !is_name(&name) {
        return Err(nonsense(format!("its name {name:?} is not 1 to 31 of a-z, 0-9, '-' and '_'")));
    }
    if q.sanitizer != abi::SANITIZER_NONE && q.sanitizer != sanitizer_of_host {
        let found =
            format!("it was built with {}, this process with {}", sanitizer(q.sanitizer), sanitizer(sanitizer_of_host));
        return Err(Error::invalid(format!("plugin {place}"), found, "load a build without a sanitizer"));
    }
    // SAFETY: the query answered OK, so that `api` is the plugin's table for the life of the process.
    let table = unsafe { copied(q.api) };
    let (table, slots) = match table.and_then(|api| Slots::of(&api).map(|slots| (api, slots))) {
        Ok(both) => both,
        Err(found) => return Err(nonsense(format!("it has {found}"))),
    };
    let mut notes = slots.defaults();
    if table.abi_minor != q.plugin_minor {
        let (table, query) = (table.abi_minor, q.plugin_minor);
        notes.push(format!("its table says ABI minor {table}, its query {query}: the query is believed"));
    }
    let (vendor, version) = (words::text(&q.vendor), words::text(&q.version));
    Ok(Asked { slots, name, vendor, version, minor: q.plugin_minor, notes })
}

/// The rule of versions: neither is refused for being newer.
fn versions(place: &str, q: &Query) -> Result<()> {
    let (major, host) = (abi::MAJOR, abi::MINOR);
    if q.plugin_minor < abi::MIN_PLUGIN_MINOR {
        let (found, least) = (q.plugin_minor, abi::MIN_PLUGIN_MINOR);
        return Err(Error::invalid(
            format!("plugin {place}"),
            format!(
                "it speaks ABI {major}.{found}; this host speaks {major}.{host} and understands {major}.{least} or newer"
            ),
            "get a newer build of the plugin, or use an older Qiao",
        ));
    }
    if host < q.plugin_min_host_minor {
        let (plugin, least) = (q.plugin_minor, q.plugin_min_host_minor);
        return Err(Error::invalid(
            format!("plugin {place}"),
            format!(
                "it speaks ABI {major}.{plugin} and needs a host of {major}.{least} or newer; this host speaks {major}.{host}"
            ),
            "use a newer Qiao, or an older build of the plugin",
        ));
    }
    Ok(())
}

/// The error of a query that answered no.
fn refusal(place: &str, q: &Query, failure: &Failure) -> Error {
    let (major, host) = (abi::MAJOR, abi::MINOR);
    let spoken = match (q.plugin_minor, q.plugin_min_host_minor) {
        (0, 0) => "it does not say which ABI it speaks".to_string(),
        (minor, 0) => format!("it speaks ABI {major}.{minor}"),
        (minor, least) => format!("it speaks ABI {major}.{minor} and needs a host of {major}.{least} or newer"),
    };
    let found = format!("it refuses this host of ABI {major}.{host}: {}; {spoken}", failure.words());
    let mend = if failure.status == abi::ERR_ABI {
        "use a Qiao and a plugin that speak each other's ABI: a newer Qiao where the host is too old, else a newer plugin"
    } else {
        "a query only answers: have its vendor mend it"
    };
    Error::invalid(format!("plugin {place}"), found, mend)
}
