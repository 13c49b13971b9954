//! `qiao prepack`: a model's weights as a device has them, in a file for the next time.

use std::io::Write;
use std::time::Instant;

use anyhow::Context;
use qiao::Canceller;
use serde_json::json;

use crate::args::{Fallback, Prepack, Where};
use crate::exit::Exit;
use crate::interrupt::Guard;
use crate::load::load_anew;
use crate::terminal::tell_line;

pub(crate) fn prepack(args: &Prepack, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let (device, dtype, split) = (args.device.clone(), args.dtype, args.split.clone());
    let on = Where { device, split, dtype, kv_dtype: None, context: None, fallback: Fallback { fallback: None } };
    let start = Instant::now();
    let loaded = load_anew(Some(&args.model), &on)?;
    let canceller = Canceller::default();
    let _guard = Guard::new(canceller.clone());
    let Some(files) = loaded.model.prepack(args.folder.as_deref(), &canceller)? else {
        tell_line("interrupted: nothing was left behind");
        return Ok(Exit::Interrupted);
    };
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let files: Vec<_> =
            files.iter().map(|f| json!({ "path": f.path.display().to_string(), "bytes": f.bytes })).collect();
        writeln!(out, "{}", json!({ "files": files, "seconds": seconds }))
            .context("cannot write to standard output")?;
        return Ok(Exit::Ok);
    }
    for file in &files {
        writeln!(out, "{}", file.path.display())?;
    }
    let bytes: u64 = files.iter().map(|f| f.bytes).sum();
    tell_line(&format!(
        "{:.2} GiB written in {seconds:.1} s; {} maps them from now on",
        bytes as f64 / (1u64 << 30) as f64,
        args.device
    ));
    Ok(Exit::Ok)
}
