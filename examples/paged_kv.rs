//! Sequences that share memory: blocks of a paged KV cache, forked, written and read by attention on a device.
//!
//! Run it:   cargo run --release -p qiao-examples --bin paged_kv -- cpu
//!
//! It shows, in order: a prompt in blocks; a fork, which costs nothing; the first write after it, which copies one block; attention
//! over the pages of both, each beside a plain loop over its own tokens; a second request that begins alike; another tenant, who
//! shares nothing; and what goes when room is needed. The books are kept by `qiao-kvcache`, which knows no device; the
//! pages are one buffer for keys and one for values. Keys and values are made up from token and position: a model of one
//! layer, without a model.
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;

use qiao::core::{
    AttentionAttrs, Binding, DType, Device, Graph, KvLayout, KvWriteAttrs, Op, Stream, TensorDesc, TensorId,
};
use qiao_kvcache::{BlockCopy, Cache, Config, SequenceId};

const BLOCKS: usize = 10;
const BLOCK_SIZE: usize = 4;
const HEADS: usize = 2;
const DIM: usize = 8;
/// Bytes of a block's keys, and of its values.
const BLOCK_BYTES: usize = BLOCK_SIZE * HEADS * DIM * 4;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "cpu".into());
    let mut show = Show::on(qiao::registry().open(&name)?)?;
    println!("on {}: {} blocks of {BLOCK_SIZE} tokens\n", show.device.info().name, BLOCKS - 1);
    let prompt: Vec<u32> = (1..=10).collect();

    println!("A prompt of 10 tokens takes three blocks; the third is half full.");
    let a = show.cache.open(b"alice", &prompt);
    let (_, difference) = show.append(a, &prompt)?;
    show.print(&[("A", a)]);
    println!("  attention over them is {difference:.1e} from a plain loop\n");

    println!("A fork has the same blocks. Nothing was copied.");
    let b = show.cache.fork(a)?;
    show.print(&[("A", a), ("B", b)]);

    println!("\nB goes on with token 50, A with token 60: whoever writes first copies the block that both hold.");
    let (seen_by_b, of_b) = show.append(b, &[50])?;
    let (seen_by_a, of_a) = show.append(a, &[60])?;
    show.print(&[("A", a), ("B", b)]);
    println!("  each sees its own continuation: {of_a:.1e} and {of_b:.1e} from plain loops over their own tokens,");
    println!("  {:.2} from each other", largest_difference(&seen_by_a, &seen_by_b));
    let (again, _) = show.attend(a)?;
    let undisturbed = again == seen_by_a;
    println!("  A reads the same bits after B wrote: {undisturbed}");

    println!("\nC asks for the prompt of A and goes on otherwise: two blocks are found, three tokens run.");
    let c = show.cache.open(b"alice", &[&prompt[..], &[70]].concat());
    let found = show.cache.len(c);
    show.append(c, &[&prompt[found..], &[70]].concat())?;
    show.print(&[("A", a), ("B", b), ("C", c)]);
    println!("  another tenant finds {} tokens of it", show.cache.peek(b"bob", &prompt));

    println!("\nAll end. What is full stays findable; the rest is free.");
    for sequence in [a, b, c] {
        show.cache.close(sequence);
    }
    show.print(&[]);
    println!("  A's prompt would be found up to token {}", show.cache.peek(b"alice", &[&prompt[..], &[0]].concat()));

    println!("\nBob needs 8 blocks: one has to go, and it is the tail of a text, not its head.");
    let d = show.cache.open(b"bob", &[]);
    show.append(d, &(100..132).collect::<Vec<u32>>())?;
    show.print(&[("D", d)]);
    println!("  A's prompt would be found up to token {}", show.cache.peek(b"alice", &[&prompt[..], &[0]].concat()));

    let right = show.worst < 1e-5 && undisturbed && found == 8 && seen_by_a != seen_by_b;
    if right { Ok(()) } else { Err("a sequence did not read what it wrote".into()) }
}

/// The books, and the pages on a device.
struct Show {
    device: Arc<dyn Device>,
    stream: Box<dyn Stream>,
    cache: Cache,
    /// Keys and values, `[BLOCKS, HEADS, BLOCK_SIZE, DIM]`.
    pages: [Binding; 2],
    /// The largest difference from a plain loop so far.
    worst: f32,
}

impl Show {
    fn on(device: Arc<dyn Device>) -> Fallible<Show> {
        let block_bytes = 2 * BLOCK_BYTES as u64;
        let config = Config { blocks: BLOCKS, block_size: BLOCK_SIZE, block_bytes, window: None, sharing: true };
        let pages = [alloc(&device, BLOCKS * BLOCK_BYTES)?, alloc(&device, BLOCKS * BLOCK_BYTES)?];
        Ok(Show { stream: device.stream()?, cache: Cache::new(config)?, device, pages, worst: 0.0 })
    }

    fn print(&self, sequences: &[(&str, SequenceId)]) {
        for &(name, s) in sequences {
            println!("  {name}: {:2} tokens in blocks {:?}", self.cache.len(s), self.cache.table(s));
        }
        let usage = self.cache.usage();
        print!("  {} blocks used, {} cached, {} free; ", usage.used, usage.cached, usage.free);
        println!("{} copied and {} evicted so far", self.cache.counters().copied, self.cache.counters().evicted);
    }

    /// Makes a sequence longer; what its last token sees, and how far that is from a plain loop.
    fn append(&mut self, s: SequenceId, ids: &[u32]) -> Fallible<(Vec<f32>, f32)> {
        let start = self.cache.len(s);
        for BlockCopy { from, to } in self.cache.reserve(s, start + ids.len())? {
            for pages in &self.pages {
                let block = |id: u32| Binding::part(&pages.buffer, id as usize * BLOCK_BYTES, BLOCK_BYTES);
                self.stream.copy(&block(to), &block(from))?;
            }
        }
        let all = [self.cache.tokens(s), ids].concat();
        let result = self.run(s, &all, start)?;
        // They are written: from now on others find the blocks that are full.
        self.cache.commit(s, ids)?;
        Ok(result)
    }

    /// What the last token of a sequence sees; writes nothing new.
    fn attend(&mut self, s: SequenceId) -> Fallible<(Vec<f32>, f32)> {
        let all = self.cache.tokens(s).to_vec();
        let last = all.len() - 1;
        self.run(s, &all, last)
    }

    /// Writes keys and values of the tokens from `start` on, and attends with the last one's query.
    fn run(&mut self, s: SequenceId, tokens: &[u32], start: usize) -> Fallible<(Vec<f32>, f32)> {
        let new = start..tokens.len();
        let made = |what: u32| -> Vec<f32> { new.clone().flat_map(|p| vector(what, tokens[p], p)).collect() };
        let slots: Vec<i32> = new.clone().map(|position| self.cache.slot(s, position)).collect();
        let query = vector(0, tokens[new.end - 1], new.end - 1);
        let table = self.cache.table(s).to_vec();
        let (graph, out) = graph(new.len(), table.len())?;
        let out = alloc(&self.device, graph.desc(out).bytes()?)?;
        let bindings = [
            self.upload(&made(1))?,
            self.upload(&made(2))?,
            self.upload(&slots)?,
            self.pages[0].clone(),
            self.pages[1].clone(),
            self.upload(&query)?,
            self.upload(&[tokens.len() as i32])?,
            self.upload(&table)?,
            out.clone(),
        ];
        let plan = self.device.plan(&graph)?;
        let workspace = alloc(&self.device, plan.info().workspace_bytes)?;
        plan.execute(&mut *self.stream, &bindings, &workspace)?;
        let mut bytes = vec![0; out.bytes];
        self.stream.download(&mut bytes, &out)?;
        let seen: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let difference = largest_difference(&seen, &plain_loop(tokens));
        self.worst = self.worst.max(difference);
        Ok((seen, difference))
    }

    fn upload<T: Word>(&mut self, values: &[T]) -> qiao::core::Result<Binding> {
        let binding = alloc(&self.device, values.len() * 4)?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
        self.stream.upload(&binding, &bytes)?;
        Ok(binding)
    }
}

/// A value of four bytes, as a device takes it.
trait Word {
    fn bytes(&self) -> [u8; 4];
}

impl Word for f32 {
    fn bytes(&self) -> [u8; 4] {
        self.to_le_bytes()
    }
}

impl Word for i32 {
    fn bytes(&self) -> [u8; 4] {
        self.to_le_bytes()
    }
}

/// Write `tokens` tokens into the pages, then let one query see all that a table of `blocks` blocks names.
fn graph(tokens: usize, blocks: usize) -> qiao::core::Result<(Graph, TensorId)> {
    let kv_layout = KvLayout::BlockHeadToken;
    let mut g = Graph::new();
    let floats = |shape: &[usize]| TensorDesc::new(DType::F32, shape);
    let ints = |shape: &[usize]| TensorDesc::new(DType::I32, shape);
    let k = g.bind("k", floats(&[tokens, HEADS, DIM])?);
    let v = g.bind("v", floats(&[tokens, HEADS, DIM])?);
    let slots = g.bind("slots", ints(&[tokens])?);
    let k_pages = g.bind("k_pages", floats(&[BLOCKS, HEADS, BLOCK_SIZE, DIM])?);
    let v_pages = g.bind("v_pages", floats(&[BLOCKS, HEADS, BLOCK_SIZE, DIM])?);
    let q = g.bind("q", floats(&[1, HEADS, DIM])?);
    let kv_len = g.bind("kv_len", ints(&[1])?);
    let table = g.bind("block_table", ints(&[1, blocks])?);
    let out = g.bind("out", floats(&[1, HEADS, DIM])?);
    let pages = [Some(k_pages), Some(v_pages)];
    let write = [Some(k), Some(v), Some(slots), pages[0], pages[1], None, None];
    g.add(Op::KvWrite(KvWriteAttrs { kv_layout }), &write)?;
    let read = [Some(q), pages[0], pages[1], Some(kv_len), Some(table), None, None, None];
    let attention = AttentionAttrs { causal: true, kv_layout, ..Default::default() };
    g.add_into(Op::AttentionDecode(attention), &read, &[out])?;
    Ok((g, out))
}

/// A query, key or value that depends on token and position, `[HEADS, DIM]`.
fn vector(what: u32, token: u32, position: usize) -> Vec<f32> {
    let seed = what as usize * 7919 + token as usize * 104_729 + position * 31;
    (0..HEADS * DIM).map(|i| ((seed + i * i * 13) % 257) as f32 / 64.0 - 2.0).collect()
}

/// Attention of the last token over all tokens of its sequence, which lie one after the other.
fn plain_loop(tokens: &[u32]) -> Vec<f32> {
    let last = tokens.len() - 1;
    let (q, scale) = (vector(0, tokens[last], last), 1.0 / (DIM as f32).sqrt());
    let of = |what: u32| -> Vec<Vec<f32>> { tokens.iter().zip(0..).map(|(&t, p)| vector(what, t, p)).collect() };
    let (keys, values) = (of(1), of(2));
    let mut out = Vec::new();
    for head in (0..HEADS).map(|h| h * DIM..(h + 1) * DIM) {
        let dot = |k: &Vec<f32>| -> f32 { q[head.clone()].iter().zip(&k[head.clone()]).map(|(a, b)| a * b).sum() };
        let scores: Vec<f32> = keys.iter().map(|k| dot(k) * scale).collect();
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
        let sum: f32 = weights.iter().sum();
        out.extend(head.map(|i| weights.iter().zip(&values).map(|(w, v)| w / sum * v[i]).sum::<f32>()));
    }
    out
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Memory of the device for a tensor, with the spare bytes that the device wants after each.
fn alloc(device: &Arc<dyn Device>, bytes: usize) -> qiao::core::Result<Binding> {
    let buffer = device.alloc(0, bytes.max(1) + device.info().tensor_tail_pad)?;
    Ok(Binding::part(&buffer, 0, bytes))
}
