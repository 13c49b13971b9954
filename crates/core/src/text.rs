//! A graph as plain text, a tensor or a node to a line, and back through the checked methods that build graphs.
//!
//! ```text
//! qiao graph 1
//! bound "x" f32 [2,4]
//! bound "w" bf16 [8,4] strides [8,1] constant layout 0x3
//! temporary "matmul.0" f32 [2,8]
//! view %2 at 16 f32 [2,4] strides [8,1]
//! node matmul {1,0,0} %0 %1 - - -> %2
//! node fill {0x3f800000} -> %3
//! end
//! ```
//!
//! - The first line names the format and its version; the last is `end`, so that a text cut short is noticed. Empty
//!   lines and lines that start with `#` say nothing.
//! - Tensors are numbered from `%0` in the order of their lines, and a line uses only tensors of lines above it.
//!   Bindings are the `bound` lines in order. A `view` starts so many bytes into a tensor that is itself no view, and
//!   carries that tensor's name.
//! - Sizes and strides count elements; `strides` is left out where it is row-major without gaps.
//! - Attributes are their 32-bit words, decimal or `0x` hexadecimal; words left out at the end are 0. A float is its
//!   bits, so that every value comes back.
//! - An operand that is left out is `-`. An output that stands among the inputs is written in place.
//! - Names stand in double quotes with the escapes `\"`, `\\` and `\u{hex}`.

use std::fmt::Write as _;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Graph, Storage, TensorId};
use crate::op::{Op, OpKind};
use crate::shape::{Dims, MAX_RANK, TensorDesc};

/// The version that [`Graph::to_text`] writes and the only one that [`Graph::from_text`] reads.
const VERSION: &str = "1";

impl Graph {
    /// The graph as text, in the form that [`Graph::from_text`] reads.
    pub fn to_text(&self) -> String {
        let mut out = format!("qiao graph {VERSION}\n");
        for tensor in self.tensors() {
            match tensor.storage {
                Storage::Bound(_) => out.push_str(&format!("bound {}", quoted(&tensor.name))),
                Storage::Temporary => out.push_str(&format!("temporary {}", quoted(&tensor.name))),
                Storage::View(root, offset) => out.push_str(&format!("view %{} at {offset}", root.0)),
            }
            write_desc(&mut out, &tensor.desc);
            out.push('\n');
        }
        for node in self.nodes() {
            out.push_str("node ");
            out.push_str(node.op.kind().name());
            let words = node.op.attr_words();
            if !words.is_empty() {
                let words: Vec<_> = words.into_iter().map(word_text).collect();
                out.push_str(&format!(" {{{}}}", words.join(",")));
            }
            for id in &node.inputs {
                match id {
                    Some(id) => out.push_str(&format!(" %{}", id.0)),
                    None => out.push_str(" -"),
                }
            }
            out.push_str(" ->");
            for id in &node.outputs {
                out.push_str(&format!(" %{}", id.0));
            }
            out.push('\n');
        }
        out.push_str("end\n");
        out
    }

    /// The graph of a text that [`Graph::to_text`] wrote: equal to the one it was written from, as long as every tensor
    /// of that one passes [`TensorDesc::check`]. Each line goes through the method that would build it, so a text from
    /// anywhere gives a valid graph or an error, in time and memory that follow from its length.
    ///
    /// # Errors
    /// The first line that is not understood or that the graph's methods refuse, with its number; a text without its
    /// last line; a version that is not 1.
    pub fn from_text(text: &str) -> Result<Graph> {
        let mut graph = Graph::new();
        let mut state = State::Start;
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut line = Line { number: i + 1, rest: line };
            state = match state {
                State::Start => line.header()?,
                State::Body => line.body(&mut graph)?,
                State::End => {
                    return Err(line.bad(format!("'{}' after 'end'", clip(line.rest)), "let 'end' be the last line"));
                }
            };
            line.finish()?;
        }
        if state != State::End {
            let line = Line { number: text.lines().count() + 1, rest: "" };
            return Err(line.bad("the text stops before 'end'", "give the whole text"));
        }
        Ok(graph)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Body,
    End,
}

fn write_desc(out: &mut String, desc: &TensorDesc) {
    out.push_str(&format!(" {} {}", desc.dtype, dims_text(&desc.shape)));
    if desc.strides != desc.shape.contiguous_strides() {
        out.push_str(&format!(" strides {}", dims_text(&desc.strides)));
    }
    if desc.constant {
        out.push_str(" constant");
    }
    if desc.layout != 0 {
        out.push_str(&format!(" layout {:#x}", desc.layout));
    }
}

fn dims_text(dims: &Dims) -> String {
    let dims: Vec<_> = dims.iter().map(usize::to_string).collect();
    format!("[{}]", dims.join(","))
}

/// Small words are numbers; what is larger is a float's bits or a set of fields.
fn word_text(word: u32) -> String {
    if word < 1 << 16 { word.to_string() } else { format!("{word:#x}") }
}

fn quoted(name: &str) -> String {
    let mut out = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Everything that is or may be taken for the end of a line, and what no one can see.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                write!(out, "\\u{{{:x}}}", c as u32).expect("a String takes all text");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The start of a piece of text that an error quotes.
fn clip(text: &str) -> String {
    let mut out: String = text.chars().take(40).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

/// What is left to read of a line.
struct Line<'a> {
    number: usize,
    rest: &'a str,
}

impl<'a> Line<'a> {
    fn bad(&self, found: impl Into<String>, mend: impl Into<String>) -> Error {
        Error::invalid(format!("graph text, line {}", self.number), found, mend)
    }

    /// An error of a graph's method, with the line's number in front.
    fn refused(&self, error: Error) -> Error {
        match error {
            Error::Invalid { what, found, mend } => self.bad(format!("{what}: {found}"), mend),
            other => self.bad(other.to_string(), "mend the line"),
        }
    }

    /// The next word, if there is one.
    fn word(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_start();
        let (word, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    /// The next word, if it is this one.
    fn takes(&mut self, word: &str) -> bool {
        let before = self.rest;
        let found = self.word() == Some(word);
        if !found {
            self.rest = before;
        }
        found
    }

    fn need(&mut self, what: &str) -> Result<&'a str> {
        self.word().ok_or_else(|| self.bad(format!("no {what}"), format!("give a {what}")))
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        if self.takes(word) { Ok(()) } else { Err(self.bad(format!("no '{word}'"), format!("write '{word}' there"))) }
    }

    fn finish(&mut self) -> Result<()> {
        match self.word() {
            None => Ok(()),
            Some(more) => Err(self.bad(format!("'{}' after all that belongs there", clip(more)), "leave it out")),
        }
    }

    fn header(&mut self) -> Result<State> {
        if !(self.takes("qiao") && self.takes("graph")) {
            return Err(self.bad(format!("'{}'", clip(self.rest)), format!("start with 'qiao graph {VERSION}'")));
        }
        let version = self.need("version")?;
        if version != VERSION {
            let mend = "write it with the version of Qiao that reads it";
            return Err(self.bad(format!("version '{}', and {VERSION} is read here", clip(version)), mend));
        }
        Ok(State::Body)
    }

    fn body(&mut self, graph: &mut Graph) -> Result<State> {
        match self.need("line kind")? {
            kind @ ("bound" | "temporary") => {
                let (name, desc) = (self.name()?, self.desc()?);
                if kind == "bound" {
                    graph.bind(name, desc)
                } else {
                    graph.temporary(name, desc)
                };
            }
            "view" => self.view(graph)?,
            "node" => self.node(graph)?,
            "end" => return Ok(State::End),
            other => {
                let mend = "start a line with bound, temporary, view, node or end";
                return Err(self.bad(format!("'{}'", clip(other)), mend));
            }
        }
        Ok(State::Body)
    }

    fn view(&mut self, graph: &mut Graph) -> Result<()> {
        let of = self.need("tensor")?;
        let of = self.id(of, graph)?;
        if graph.root(of).0 != of {
            return Err(self.bad(format!("a view of the view %{}", of.0), "name the tensor that owns the bytes"));
        }
        self.expect("at")?;
        let offset = self.need("offset")?;
        let offset = self.size(offset)?;
        let desc = self.desc()?;
        graph.view(of, desc, offset).map(|_| ()).map_err(|e| self.refused(e))
    }

    fn node(&mut self, graph: &mut Graph) -> Result<()> {
        let name = self.need("operator")?;
        let Ok(kind) = name.parse::<OpKind>() else {
            return Err(self.bad(format!("operator '{}'", clip(name)), "use a name of the op list"));
        };
        let words = self.attr_words()?;
        let op = Op::from_words(kind, &words).ok_or_else(|| {
            let mend = format!("give words that stand for {:?}", kind.attr_names());
            self.bad(format!("{} attribute words that {kind} does not have", words.len()), mend)
        })?;
        let mut inputs = Vec::new();
        loop {
            match self.need("'->'")? {
                "->" => break,
                "-" => inputs.push(None),
                word => inputs.push(Some(self.id(word, graph)?)),
            }
        }
        let mut outputs = Vec::new();
        while let Some(word) = self.word() {
            outputs.push(self.id(word, graph)?);
        }
        graph.add_into(op, &inputs, &outputs).map(|_| ()).map_err(|e| self.refused(e))
    }

    /// `{word,word}`, or nothing.
    fn attr_words(&mut self) -> Result<Vec<u32>> {
        if !self.rest.trim_start().starts_with('{') {
            return Ok(Vec::new());
        }
        let list = self.need("attributes")?;
        let inner = list.strip_prefix('{').and_then(|l| l.strip_suffix('}'));
        let Some(inner) = inner else {
            return Err(self.bad(format!("'{}'", clip(list)), "write attributes as {word,word}"));
        };
        if inner.is_empty() {
            return Ok(Vec::new());
        }
        inner.split(',').map(|w| self.number(w).and_then(|n| self.fits(n, w))).collect()
    }

    fn desc(&mut self) -> Result<TensorDesc> {
        let name = self.need("dtype")?;
        let Ok(dtype) = name.parse::<DType>() else {
            return Err(self.bad(format!("dtype '{}'", clip(name)), "use a name like f32, bf16 or q4_k"));
        };
        let shape = self.dims("shape")?;
        let strides = if self.takes("strides") { self.dims("stride list")? } else { shape.contiguous_strides() };
        let constant = self.takes("constant");
        let layout = if self.takes("layout") {
            let word = self.need("layout")?;
            self.number(word)?
        } else {
            0
        };
        let desc = TensorDesc { dtype, shape, strides, layout, constant };
        desc.check().map_err(|e| self.refused(e))?;
        Ok(desc)
    }

    /// `[2,3]`.
    fn dims(&mut self, what: &str) -> Result<Dims> {
        let word = self.need(what)?;
        let inner = word.strip_prefix('[').and_then(|w| w.strip_suffix(']'));
        let Some(inner) = inner else {
            return Err(self.bad(format!("{what} '{}'", clip(word)), "write it as [2,3]"));
        };
        let (mut dims, mut rank) = ([0; MAX_RANK], 0);
        for part in inner.split(',').filter(|_| !inner.is_empty()) {
            if rank == MAX_RANK {
                return Err(self.bad(format!("{what} '{}'", clip(word)), format!("use at most {MAX_RANK} dims")));
            }
            dims[rank] = self.size(part)?;
            rank += 1;
        }
        Dims::new(&dims[..rank])
    }

    /// `%3`, a tensor of a line above.
    fn id(&self, word: &str, graph: &Graph) -> Result<TensorId> {
        let index = word.strip_prefix('%').and_then(|w| w.parse::<u32>().ok());
        index.filter(|&i| (i as usize) < graph.tensors().len()).map(TensorId).ok_or_else(|| {
            let found = format!("'{}', with {} tensors above", clip(word), graph.tensors().len());
            self.bad(found, "name a tensor of a line above as %number")
        })
    }

    fn size(&self, word: &str) -> Result<usize> {
        self.number(word).and_then(|n| self.fits(n, word))
    }

    fn fits<T: TryFrom<u64>>(&self, number: u64, word: &str) -> Result<T> {
        let mend = || self.bad(format!("'{}', which does not fit", clip(word)), "use a smaller number");
        T::try_from(number).map_err(|_| mend())
    }

    /// A decimal number, or a hexadecimal one after `0x`.
    fn number(&self, word: &str) -> Result<u64> {
        let (digits, radix) = word.strip_prefix("0x").map_or((word, 10), |hex| (hex, 16));
        let plain = !digits.starts_with('+');
        u64::from_str_radix(digits, radix)
            .ok()
            .filter(|_| plain)
            .ok_or_else(|| self.bad(format!("'{}'", clip(word)), "write a number below 2^64, decimal or after 0x"))
    }

    /// A name in quotes.
    fn name(&mut self) -> Result<String> {
        let text = self.rest.trim_start();
        let Some(body) = text.strip_prefix('"') else {
            return Err(self.bad("no name in quotes", "write it as \"name\""));
        };
        let mut out = String::new();
        let mut chars = body.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &body[at + 1..];
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => out.push(c),
                    Some((_, 'u')) => {
                        let code = chars.as_str().strip_prefix('{').and_then(|t| t.split_once('}')).map(|(c, _)| c);
                        let char = code.and_then(|c| u32::from_str_radix(c, 16).ok()).and_then(char::from_u32);
                        let (Some(code), Some(char)) = (code, char) else {
                            return Err(self.bad("an escape that stands for no character", "write it as \\u{hex}"));
                        };
                        out.push(char);
                        chars.nth(code.len() + 1);
                    }
                    _ => return Err(self.bad("an unknown escape in a name", "use \\\", \\\\ or \\u{hex}")),
                },
                c => out.push(c),
            }
        }
        Err(self.bad("a name without its closing quote", "close it on the same line"))
    }
}
