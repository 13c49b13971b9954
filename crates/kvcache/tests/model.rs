//! Random lives of many sequences, against a device whose slots remember what was written into them.
//!
//! What belongs into a slot is told by the salt and all tokens up to its own, so a block that is shared, reused, copied or given
//! back wrongly shows as a wrong content. Blocks that are given out anew are poisoned, and so are slots of rejected guesses.

use proptest::prelude::*;
use proptest::sample::Index;
use qiao_kvcache::{Cache, Config, Error, NULL, SequenceId};

const POISON: u64 = u64::MAX;

/// One sequence of a batch: which, new tokens, and how many guesses behind them are written and rejected.
type Part = (Index, Vec<u32>, usize);

#[derive(Clone, Debug)]
enum Act {
    Open {
        salt: u8,
        prompt: Vec<u32>,
    },
    Batch(Vec<Part>),
    Reserve {
        at: Index,
        more: usize,
    },
    /// Writes without asking for room.
    Commit {
        at: Index,
        ids: Vec<u32>,
    },
    Cut {
        at: Index,
        to: Index,
    },
    Trim(Index),
    Fork(Index),
    Close(Index),
    /// Closed and computed again.
    Recompute(Index),
    /// Brought to the host, closed, and brought back into other blocks.
    Swap(Index),
    Forget,
}

fn act() -> impl Strategy<Value = Act> {
    let ids = |most| prop::collection::vec(0..2u32, 0..most);
    let at = any::<Index>;
    prop_oneof![
        4 => (0..3u8, ids(14)).prop_map(|(salt, prompt)| Act::Open { salt, prompt }),
        8 => prop::collection::vec((at(), ids(6), 0..4usize), 1..4).prop_map(Act::Batch),
        1 => (at(), 0..9usize).prop_map(|(at, more)| Act::Reserve { at, more }),
        1 => (at(), ids(4)).prop_map(|(at, ids)| Act::Commit { at, ids }),
        3 => (at(), at()).prop_map(|(at, to)| Act::Cut { at, to }),
        1 => at().prop_map(Act::Trim),
        3 => at().prop_map(Act::Fork),
        3 => at().prop_map(Act::Close),
        1 => at().prop_map(Act::Recompute),
        1 => at().prop_map(Act::Swap),
        1 => Just(Act::Forget),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let window = prop_oneof![Just(None), (1..9usize).prop_map(Some)];
    (2..14usize, 1..5usize, window, prop::bool::weighted(0.9)).prop_map(|(blocks, block_size, window, sharing)| {
        Config { blocks, block_size, block_bytes: 64, window, sharing }
    })
}

/// What belongs into a slot, of the tokens up to it.
fn content(salt: u8, tokens: &[u32]) -> u64 {
    let mix = |h: u64, x: u64| (h ^ x).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    tokens.iter().fold(mix(1, salt.into()), |h, &token| mix(h, u64::from(token) + 7))
}

struct Live {
    id: SequenceId,
    salt: u8,
    tokens: Vec<u32>,
}

struct World {
    cache: Cache,
    slots: Vec<u64>,
    live: Vec<Live>,
}

impl World {
    fn new(config: Config) -> World {
        let slots = vec![POISON; config.blocks * config.block_size];
        World { cache: Cache::new(config).unwrap(), slots, live: Vec::new() }
    }

    fn size(&self) -> usize {
        self.cache.config().block_size
    }

    fn act(&mut self, act: &Act) {
        let pick = |at: &Index| (!self.live.is_empty()).then(|| at.index(self.live.len()));
        match act {
            Act::Open { salt, prompt } => self.open(*salt, prompt),
            Act::Batch(parts) => self.batch(parts),
            Act::Reserve { at, more } => {
                if let Some(i) = pick(at) {
                    self.reserve(i, self.live[i].tokens.len() + more);
                }
            }
            Act::Commit { at, ids } => {
                if let Some(i) = pick(at) {
                    self.commit_unasked(i, ids);
                }
            }
            Act::Cut { at, to } => {
                if let Some(i) = pick(at) {
                    self.cut(i, to.index(self.live[i].tokens.len() + 2));
                }
            }
            Act::Trim(at) => {
                if let Some(i) = pick(at) {
                    self.cache.trim(self.live[i].id);
                    let entries = self.cache.table(self.live[i].id).len();
                    assert_eq!(entries, self.live[i].tokens.len().div_ceil(self.size()));
                }
            }
            Act::Fork(at) => {
                if let Some(i) = pick(at).filter(|_| self.live.len() < 9) {
                    let id = self.cache.fork(self.live[i].id).unwrap();
                    let Live { salt, tokens, .. } = &self.live[i];
                    self.live.push(Live { id, salt: *salt, tokens: tokens.clone() });
                }
            }
            Act::Close(at) => {
                if let Some(i) = pick(at) {
                    self.cache.close(self.live.swap_remove(i).id);
                }
            }
            Act::Recompute(at) => {
                if let Some(i) = pick(at) {
                    self.preempt(i, false);
                }
            }
            Act::Swap(at) => {
                if let Some(i) = pick(at) {
                    self.preempt(i, true);
                }
            }
            Act::Forget => {
                self.cache.forget();
                assert_eq!(self.cache.usage().cached, 0);
            }
        }
    }

    fn open(&mut self, salt: u8, prompt: &[u32]) {
        if self.live.len() >= 9 {
            return;
        }
        let found = self.cache.peek(&[salt], prompt);
        let id = self.cache.open(&[salt], prompt);
        assert_eq!(self.cache.len(id), found);
        assert!(found.is_multiple_of(self.size()) && (found == 0 || found < prompt.len()));
        assert_eq!(self.cache.tokens(id), &prompt[..found]);
        self.live.push(Live { id, salt, tokens: prompt[..found].to_vec() });
    }

    /// Reserves, and does on the device what has to be done; whether there was room.
    fn reserve(&mut self, i: usize, total: usize) -> bool {
        let id = self.live[i].id;
        let (table, usage, counters) = (self.cache.table(id).to_vec(), self.cache.usage(), self.cache.counters());
        let (needed, available) = (self.cache.needed(id, total), self.cache.available());
        assert_eq!(available, usage.free + usage.cached);
        match self.cache.reserve(id, total) {
            Ok(copies) => {
                let after = self.cache.usage();
                assert_eq!(after.used - usage.used, needed);
                let evicted = (self.cache.counters().evicted - counters.evicted) as usize;
                assert_eq!(
                    evicted,
                    needed.saturating_sub(usage.free),
                    "what is kept goes only for want of free blocks"
                );
                assert!(self.cache.capacity(id) >= total);
                let now: Vec<u32> = self.cache.table(id).iter().map(|&block| block as u32).collect();
                let new = now.iter().enumerate().filter(|&(i, &block)| table.get(i) != Some(&(block as i32)));
                for (_, &block) in new {
                    self.block(block).fill(POISON);
                }
                for copy in &copies {
                    assert!(table.contains(&(copy.from as i32)) && now.contains(&copy.to));
                    let from = self.block(copy.from).to_vec();
                    self.block(copy.to).copy_from_slice(&from);
                }
                true
            }
            Err(error) => {
                assert_eq!(error, Error::NoRoom { needed, available });
                assert!(needed > available);
                assert_eq!((self.cache.table(id), self.cache.usage()), (&table[..], usage), "nothing has changed");
                assert_eq!(self.cache.counters(), counters);
                false
            }
        }
    }

    fn block(&mut self, block: u32) -> &mut [u64] {
        let size = self.size();
        &mut self.slots[block as usize * size..][..size]
    }

    /// Writes the tokens behind those held, and rejected guesses behind these, and says so.
    fn write(&mut self, i: usize, ids: &[u32], guesses: usize, written: &mut Vec<i32>) {
        let Live { id, salt, tokens } = &mut self.live[i];
        let start = tokens.len();
        tokens.extend(ids);
        for position in start..tokens.len() + guesses {
            let slot = self.cache.slot(*id, position);
            assert!(slot >= self.cache.config().block_size as i32, "position {position} has slot {slot}");
            assert!(!written.contains(&slot), "slot {slot} is written twice");
            written.push(slot);
            self.slots[slot as usize] = match tokens.get(..=position) {
                Some(tokens) => content(*salt, tokens),
                None => POISON,
            };
        }
    }

    fn batch(&mut self, parts: &[Part]) {
        let mut chosen: Vec<(usize, &[u32], usize)> = Vec::new();
        let parts = if self.live.is_empty() { &[] } else { parts };
        for (at, ids, guesses) in parts {
            let i = at.index(self.live.len());
            if chosen.iter().all(|&(j, ..)| i != j) && self.reserve(i, self.live[i].tokens.len() + ids.len() + guesses)
            {
                chosen.push((i, ids, *guesses));
            }
        }
        let mut written = Vec::new();
        for &(i, ids, guesses) in &chosen {
            self.write(i, ids, guesses, &mut written);
        }
        for &(i, ids, _) in &chosen {
            self.cache.commit(self.live[i].id, ids).unwrap();
        }
    }

    fn commit_unasked(&mut self, i: usize, ids: &[u32]) {
        let (id, asked) = (self.live[i].id, self.live[i].tokens.len() + ids.len());
        let capacity = self.cache.capacity(id);
        if ids.is_empty() || asked <= capacity {
            self.write(i, ids, 0, &mut Vec::new());
            self.cache.commit(id, ids).unwrap();
        } else {
            assert_eq!(self.cache.commit(id, ids), Err(Error::NotReserved { asked, capacity }));
        }
    }

    fn cut(&mut self, i: usize, to: usize) {
        let size = self.size();
        let Live { id, tokens, .. } = &mut self.live[i];
        let first_seen = self.cache.config().window.map_or(0, |window| (to + 1).saturating_sub(window));
        // The next token sees what is in its window, and is written into a block that holds those before it.
        let wanted = first_seen.min(to / size * size)..to.min(tokens.len());
        let wanted = if to.is_multiple_of(size) { first_seen..wanted.end } else { wanted };
        let readable = wanted.into_iter().all(|position| self.cache.slot(*id, position) >= 0);
        match self.cache.truncate(*id, to) {
            Ok(()) => {
                assert!(readable || to >= tokens.len());
                tokens.truncate(to);
            }
            Err(error) => assert!(matches!(error, Error::Released { .. }) && !readable && to > 0, "{error}"),
        }
    }

    /// Takes a sequence out and brings it back, from its tokens or from a copy of its slots.
    fn preempt(&mut self, i: usize, swap: bool) {
        let Live { id, salt, tokens } = self.live.swap_remove(i);
        let saved: Option<Vec<u64>> = (0..tokens.len())
            .map(|position| usize::try_from(self.cache.slot(id, position)).ok().map(|slot| self.slots[slot]))
            .collect();
        self.cache.close(id);
        self.open(salt, &tokens);
        let back = self.live.len() - 1;
        let found = self.live[back].tokens.len();
        if !self.reserve(back, tokens.len()) {
            self.cache.close(self.live.remove(back).id);
            return;
        }
        self.write(back, &tokens[found..], 0, &mut Vec::new());
        if let Some(saved) = saved.filter(|_| swap) {
            for (position, value) in saved.into_iter().enumerate().skip(found) {
                self.slots[self.cache.slot(self.live[back].id, position) as usize] = value;
            }
        }
        self.cache.commit(self.live[back].id, &tokens[found..]).unwrap();
    }

    fn check(&self) {
        self.cache.audit().unwrap();
        let size = self.size();
        assert!(self.slots[..size].iter().all(|&value| value == POISON), "the null block was written");
        let usage = self.cache.usage();
        assert_eq!((usage.used + usage.cached + usage.free, usage.sequences), (usage.total, self.live.len()));
        self.live.iter().for_each(|live| self.check_sequence(live));
    }

    fn check_sequence(&self, live: &Live) {
        let (size, id, len) = (self.size(), live.id, live.tokens.len());
        assert_eq!(self.cache.tokens(id), live.tokens);
        let window = self.cache.config().window.unwrap_or(usize::MAX);
        for position in (len + 1).saturating_sub(window)..len {
            let slot = self.cache.slot(id, position);
            assert!(slot >= size as i32, "{id} sees position {position}, whose slot is {slot}");
            let right = content(live.salt, &live.tokens[..=position]);
            assert_eq!(self.slots[slot as usize], right, "{id} at position {position}, slot {slot}");
        }
        for (i, &block) in self.cache.table(id).iter().enumerate() {
            let last = (i + 1) * size - 1;
            assert!(last.saturating_add(window) > len || block == NULL as i32, "entry {i} has left the window");
        }
        for position in self.cache.capacity(id)..self.cache.table(id).len() * size + 1 {
            assert_eq!(self.cache.slot(id, position), -1, "{id} has a slot at position {position}, and no room");
        }
        for position in len..self.cache.capacity(id) {
            let block = self.cache.slot(id, position) / size as i32;
            let others = self.live.iter().filter(|other| other.id != id);
            let shared = others.flat_map(|other| self.cache.table(other.id)).any(|&other| other == block);
            assert!(!shared, "{id} may write block {block}, which is in another table");
        }
        if self.cache.config().sharing && self.cache.config().window.is_none() {
            let longer: Vec<u32> = live.tokens.iter().copied().chain([0]).collect();
            assert!(self.cache.peek(&[live.salt], &longer) >= len / size * size, "{id} is not found by its own tokens");
        }
    }

    fn end(mut self) {
        while let Some(live) = self.live.pop() {
            self.cache.close(live.id);
            self.check();
        }
        let usage = self.cache.usage();
        assert_eq!((usage.used, usage.sequences), (0, 0));
        self.cache.forget();
        self.check();
        let usage = self.cache.usage();
        assert_eq!((usage.free, usage.cached), (usage.total, 0), "all blocks are free again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_reads_what_its_own_tokens_wrote(
        config in config(),
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut world = World::new(config);
        for act in &acts {
            world.act(act);
            world.check();
        }
        world.end();
    }
}
