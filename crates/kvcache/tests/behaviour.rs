//! What a cache does, one behaviour at a time.

use qiao_kvcache::{BlockCopy, Cache, Config, Counters, Error, NULL, SequenceId};

const SIZE: usize = 4;

fn cache(blocks: usize) -> Cache {
    sliding(blocks, None)
}

fn sliding(blocks: usize, window: Option<usize>) -> Cache {
    Cache::new(Config { blocks, block_size: SIZE, block_bytes: 100, window, sharing: true }).unwrap()
}

fn ids(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

/// Opens a sequence, and writes what of the prompt was not found.
fn write(cache: &mut Cache, salt: &[u8], prompt: &[u32]) -> SequenceId {
    let s = cache.open(salt, prompt);
    let found = cache.len(s);
    assert_eq!(cache.reserve(s, prompt.len()).unwrap(), []);
    cache.commit(s, &prompt[found..]).unwrap();
    cache.audit().unwrap();
    s
}

fn append(cache: &mut Cache, s: SequenceId, ids: &[u32]) -> Vec<BlockCopy> {
    let copies = cache.reserve(s, cache.len(s) + ids.len()).unwrap();
    cache.commit(s, ids).unwrap();
    cache.audit().unwrap();
    copies
}

#[test]
fn slots_follow_the_table() {
    let mut c = cache(9);
    let s = write(&mut c, b"", &ids(0..6));
    assert_eq!((c.table(s), c.len(s), c.capacity(s)), (&[1, 2][..], 6, 8));
    assert_eq!((c.slot(s, 0), c.slot(s, 5), c.slot(s, 7), c.slot(s, 8)), (4, 9, 11, -1));
    assert_eq!(c.slot(s, usize::MAX), -1);
    assert_eq!(c.tokens(s), ids(0..6));
}

#[test]
fn what_others_use_or_find_has_no_slot_to_write() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &ids(0..5));
    let b = c.fork(a).unwrap();
    // Position 5 lies in the block that both hold.
    assert_eq!([a, b].map(|s| (c.capacity(s), c.slot(s, 4), c.slot(s, 5))), [(5, 8, -1); 2]);
    assert_eq!(c.reserve(b, 6).unwrap(), [BlockCopy { from: 2, to: 3 }]);
    assert_eq!([a, b].map(|s| (c.slot(s, 4), c.slot(s, 5))), [(8, 9), (12, 13)], "each has its own now");
    c.truncate(a, 3).unwrap();
    let others = write(&mut c, b"", &ids(0..5));
    c.close(others);
    assert_eq!((c.capacity(a), c.slot(a, 2), c.slot(a, 3)), (3, 6, -1), "the block of tokens 0 to 3 can be found");
    assert_eq!(c.reserve(a, 4).unwrap().len(), 1);
    assert!(c.slot(a, 3) >= 0, "a copy takes it");
}

#[test]
fn the_same_beginning_is_held_once() {
    let mut c = cache(9);
    let a = write(&mut c, b"x", &ids(0..10));
    assert_eq!(c.peek(b"x", &ids(0..12)), 8);
    let b = write(&mut c, b"x", &[&ids(0..8)[..], &[90, 91]].concat());
    assert_eq!((c.table(a), c.table(b)), (&[1, 2, 3][..], &[1, 2, 4][..]));
    assert_eq!((c.usage().used, c.usage().used_bytes), (4, 400));
    assert_eq!(c.counters(), Counters { looked_up: 20, found: 8, ..Counters::default() });
}

#[test]
fn the_most_that_was_used_at_once_is_told_once() {
    let mut c = cache(9);
    let (a, b) = (write(&mut c, b"x", &ids(0..10)), write(&mut c, b"y", &ids(0..4)));
    c.close(a);
    c.close(b);
    assert_eq!((c.usage().used, c.take_peak(), c.take_peak()), (0, 4, 0));
    let a = write(&mut c, b"x", &ids(0..12));
    assert_eq!((c.take_peak(), c.take_peak()), (3, 3), "what is used still was used since");
    c.close(a);
}

#[test]
fn the_last_token_of_a_prompt_is_never_taken_as_known() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &ids(0..8));
    assert_eq!([7, 8, 9].map(|n| c.peek(b"", &ids(0..n))), [4, 4, 8]);
    let b = write(&mut c, b"", &ids(0..8));
    assert_eq!((c.table(a), c.table(b)), (&[1, 2][..], &[1, 3][..]), "a block computed twice stays where it is");
}

#[test]
fn tenants_share_nothing() {
    let mut c = cache(9);
    write(&mut c, b"a", &ids(0..9));
    assert_eq!((c.peek(b"b", &ids(0..9)), c.peek(b"", &ids(0..9)), c.peek(b"a", &ids(0..9))), (0, 0, 8));
}

#[test]
fn without_sharing_nothing_is_found_and_nothing_kept() {
    let config = Config { blocks: 9, block_size: SIZE, block_bytes: 1, window: None, sharing: false };
    let mut c = Cache::new(config).unwrap();
    let s = write(&mut c, b"", &ids(0..9));
    assert_eq!(c.peek(b"", &ids(0..9)), 0);
    c.close(s);
    assert_eq!((c.usage().free, c.usage().cached, c.counters()), (8, 0, Counters::default()));
}

#[test]
fn only_tokens_that_are_written_can_be_found() {
    let mut c = cache(9);
    let s = c.open(b"", &ids(0..9));
    c.reserve(s, 9).unwrap();
    assert_eq!(c.peek(b"", &ids(0..9)), 0);
    c.commit(s, &ids(0..7)).unwrap();
    assert_eq!(c.peek(b"", &ids(0..9)), 4);
}

#[test]
fn freed_block_is_reused_first() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &[1]);
    write(&mut c, b"", &[2]);
    c.close(a);
    let b = write(&mut c, b"", &[3]);
    assert_eq!(c.table(b), [1]);
}

#[test]
fn a_closed_sequence_is_found_until_its_room_is_needed_and_its_tail_goes_first() {
    for (taken, found) in [(1, 12), (2, 8), (3, 4), (4, 0)] {
        let mut c = cache(5);
        let a = write(&mut c, b"", &ids(0..13));
        c.close(a);
        assert_eq!((c.usage().cached, c.usage().free, c.available()), (3, 1, 4));
        let b = c.open(b"other", &[]);
        c.reserve(b, taken * SIZE).unwrap();
        c.audit().unwrap();
        assert_eq!(c.peek(b"", &ids(0..13)), found, "{taken} blocks taken");
    }
}

#[test]
fn what_was_unused_longest_is_evicted_first() {
    let mut c = cache(4);
    for salt in [b"a", b"b", b"c"] {
        let s = write(&mut c, salt, &ids(0..4));
        c.close(s);
    }
    let a = c.open(b"a", &ids(0..5));
    c.close(a);
    write(&mut c, b"d", &[7]);
    let found = [b"a", b"b", b"c"].map(|salt| c.peek(salt, &ids(0..5)));
    assert_eq!((found, c.counters().evicted), ([4, 0, 4], 1));
}

#[test]
fn a_used_block_is_never_evicted() {
    let mut c = cache(4);
    let a = write(&mut c, b"", &ids(0..9));
    let b = c.open(b"", &[1]);
    assert_eq!(c.reserve(b, 1), Err(Error::NoRoom { needed: 1, available: 0 }));
    assert_eq!((c.table(a), c.table(b)), (&[1, 2, 3][..], &[][..]));
}

#[test]
fn room_is_made_wholly_or_not_at_all() {
    let mut c = cache(4);
    let s = c.open(b"", &[]);
    assert_eq!(c.reserve(s, 13), Err(Error::NoRoom { needed: 4, available: 3 }));
    assert_eq!((c.usage().used, c.capacity(s)), (0, 0));
    assert!(matches!(c.reserve(s, usize::MAX), Err(Error::TooLong { asked: usize::MAX, .. })));
    assert_eq!(c.reserve(s, 12), Ok(vec![]));
    assert_eq!((c.capacity(s), c.needed(s, 12), c.needed(s, 13)), (12, 0, 1));
}

#[test]
fn tokens_without_room_are_refused() {
    let mut c = cache(4);
    let s = c.open(b"", &[]);
    assert_eq!(c.commit(s, &[1]), Err(Error::NotReserved { asked: 1, capacity: 0 }));
    assert_eq!(c.commit(s, &[]), Ok(()));
    c.reserve(s, 1).unwrap();
    assert_eq!(c.commit(s, &ids(0..5)), Err(Error::NotReserved { asked: 5, capacity: 4 }));
    assert_eq!(c.len(s), 0);
}

#[test]
fn a_fork_shares_all_blocks_and_the_first_to_write_copies_the_last() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &ids(0..6));
    let b = c.fork(a).unwrap();
    assert_eq!((c.table(a), c.table(b), c.usage().used), (&[1, 2][..], &[1, 2][..], 2));
    assert_eq!((c.needed(b, 7), c.capacity(b), c.capacity(a)), (1, 6, 6));
    assert_eq!(append(&mut c, b, &[50]), [BlockCopy { from: 2, to: 3 }]);
    assert_eq!(append(&mut c, a, &[60]), [], "the one who is left alone writes in place");
    assert_eq!((c.table(a), c.table(b), c.counters().copied), (&[1, 2][..], &[1, 3][..], 1));
}

#[test]
fn full_blocks_are_never_copied() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &ids(0..8));
    let b = c.fork(a).unwrap();
    assert_eq!(append(&mut c, a, &[1]), []);
    assert_eq!(append(&mut c, b, &[2]), []);
    assert_eq!((c.table(a), c.table(b)), (&[1, 2, 3][..], &[1, 2, 4][..]));
}

#[test]
fn a_fork_takes_no_part_in_room_reserved_before() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &ids(0..5));
    c.reserve(a, 12).unwrap();
    let b = c.fork(a).unwrap();
    assert_eq!((c.table(a), c.table(b)), (&[1, 2, 3][..], &[1, 2][..]));
    let refused = Err(Error::NotReserved { asked: 6, capacity: 5 });
    assert_eq!(c.commit(a, &[9]), refused, "the block is shared since");
    assert_eq!(c.reserve(a, 12).unwrap(), [BlockCopy { from: 2, to: 4 }]);
    c.commit(a, &[9]).unwrap();
    c.audit().unwrap();
}

#[test]
fn a_copy_counts_as_a_block_needed() {
    let mut c = cache(3);
    let a = write(&mut c, b"", &ids(0..6));
    let b = c.fork(a).unwrap();
    assert_eq!(c.reserve(b, 7), Err(Error::NoRoom { needed: 1, available: 0 }));
    c.close(a);
    assert_eq!(c.reserve(b, 7), Ok(vec![]));
}

#[test]
fn a_cut_gives_back_whole_blocks_and_reserved_ones() {
    let mut c = cache(9);
    let s = write(&mut c, b"", &ids(0..10));
    c.reserve(s, 20).unwrap();
    c.truncate(s, 30).unwrap();
    assert_eq!(c.capacity(s), 20);
    c.truncate(s, 7).unwrap();
    assert_eq!((c.tokens(s), c.table(s)), (&ids(0..7)[..], &[1, 2][..]));
    c.truncate(s, 0).unwrap();
    assert_eq!((c.table(s), c.usage().used), (&[][..], 0));
    c.audit().unwrap();
}

#[test]
fn room_that_is_not_wanted_goes_back() {
    let mut c = cache(9);
    let s = write(&mut c, b"", &ids(0..5));
    c.reserve(s, 30).unwrap();
    c.trim(s);
    assert_eq!((c.table(s), c.capacity(s)), (&[1, 2][..], 8));
}

#[test]
fn a_findable_block_is_unfindable_before_it_is_written_again() {
    let mut c = cache(9);
    let s = write(&mut c, b"", &ids(0..8));
    c.truncate(s, 6).unwrap();
    assert_eq!((c.peek(b"", &ids(0..9)), c.capacity(s)), (8, 6));
    assert_eq!(c.reserve(s, 8), Ok(vec![]));
    assert_eq!(c.peek(b"", &ids(0..9)), 4);
    c.commit(s, &[60, 61]).unwrap();
    assert_eq!((c.peek(b"", &ids(0..9)), c.peek(b"", &[0, 1, 2, 3, 4, 5, 60, 61, 9])), (4, 8));
}

#[test]
fn a_cut_into_a_block_that_others_use_copies_it() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &ids(0..9));
    let b = write(&mut c, b"", &ids(0..9));
    c.truncate(a, 6).unwrap();
    assert_eq!(append(&mut c, a, &[60]), [BlockCopy { from: 2, to: 3 }]);
    assert_eq!((c.table(b), c.peek(b"", &ids(0..9))), (&[1, 2, 4][..], 8));
}

#[test]
fn twins_don_t_fill_the_cache() {
    let mut c = cache(9);
    let prompt = ids(0..8);
    let [a, b] = [0; 2].map(|_| c.open(b"", &prompt));
    for s in [a, b] {
        c.reserve(s, 8).unwrap();
    }
    for s in [a, b] {
        c.commit(s, &prompt).unwrap();
    }
    assert_eq!((c.table(a), c.table(b)), (&[1, 2][..], &[3, 4][..]));
    c.close(a);
    c.audit().unwrap();
    assert_eq!((c.usage().used, c.usage().cached, c.peek(b"", &ids(0..9))), (2, 0, 8));
    c.close(b);
    assert_eq!((c.usage().cached, c.peek(b"", &ids(0..9))), (2, 8));
    write(&mut c, b"", &prompt);
    assert_eq!((c.usage().used, c.usage().cached), (2, 0), "the block written again takes the kept one's place");
}

#[test]
fn blocks_that_left_the_window_go_back_and_not_one_token_earlier() {
    // With a window of 5, the token at position 8 sees 4..=8, so block 0 (0..=3) is not needed from then on.
    let mut c = sliding(9, Some(5));
    let s = write(&mut c, b"", &ids(0..7));
    assert_eq!(c.table(s), [1, 2]);
    append(&mut c, s, &[7]);
    assert_eq!((c.table(s), c.slot(s, 3), c.slot(s, 4)), (&[NULL as i32, 2][..], -1, 8));
    append(&mut c, s, &[8]);
    assert_eq!((c.len(s), c.capacity(s), c.counters().released), (9, 12, 1));
    assert_eq!(c.peek(b"", &ids(0..9)), 8, "it stays findable");
}

#[test]
fn a_sequence_may_be_longer_than_the_pool_where_a_window_slides() {
    let mut c = sliding(5, Some(6));
    let s = c.open(b"", &[]);
    for i in 0..100 {
        append(&mut c, s, &[i]);
    }
    assert_eq!((c.len(s), c.usage().used), (100, 2));
}

#[test]
fn a_hit_gives_back_what_is_outside_the_window() {
    let mut c = sliding(9, Some(3));
    let a = write(&mut c, b"", &ids(0..17));
    c.close(a);
    let b = c.open(b"", &ids(0..17));
    assert_eq!((c.len(b), c.table(b).len(), c.usage().used), (16, 4, 1));
    assert_eq!(c.table(b)[..3], [0, 0, 0]);
    c.audit().unwrap();
}

#[test]
fn a_cut_behind_the_window_is_refused_and_one_at_the_start_is_not() {
    let mut c = sliding(9, Some(5));
    let s = write(&mut c, b"", &ids(0..13));
    assert_eq!(c.table(s), [0, 0, 3, 4]);
    assert_eq!(c.truncate(s, 11), Err(Error::Released { asked: 11, held_from: 8, window: 5 }));
    c.truncate(s, 12).unwrap();
    c.audit().unwrap();
    c.truncate(s, 0).unwrap();
    append(&mut c, s, &ids(20..30));
    assert_eq!(c.tokens(s), ids(20..30));
}

#[test]
fn a_fork_of_a_sliding_sequence_shares_what_is_left() {
    let mut c = sliding(9, Some(5));
    let a = write(&mut c, b"", &ids(0..10));
    let b = c.fork(a).unwrap();
    append(&mut c, b, &ids(10..14));
    c.close(a);
    c.audit().unwrap();
    assert_eq!((c.len(b), &c.table(b)[..2]), (14, &[0, 0][..]));
}

#[test]
fn forgetting_frees_all_that_nobody_uses() {
    let mut c = cache(9);
    let a = write(&mut c, b"", &ids(0..9));
    write(&mut c, b"", &ids(0..6));
    c.close(a);
    assert_eq!(c.usage().cached, 1);
    c.forget();
    c.audit().unwrap();
    assert_eq!((c.usage().cached, c.usage().used, c.peek(b"", &ids(0..9))), (0, 2, 4));
}

#[test]
fn an_unknown_sequence_is_an_error_or_empty() {
    let mut c = cache(9);
    let s = write(&mut c, b"", &[1]);
    c.close(s);
    c.close(s);
    c.trim(s);
    assert_eq!(c.reserve(s, 1), Err(Error::Unknown(s)));
    assert_eq!(c.commit(s, &[]), Err(Error::Unknown(s)));
    assert_eq!(c.truncate(s, 0), Err(Error::Unknown(s)));
    assert_eq!(c.fork(s), Err(Error::Unknown(s)));
    assert_eq!((c.len(s), c.capacity(s), c.needed(s, 9), c.table(s).len(), c.slot(s, 0)), (0, 0, 0, 0, -1));
    assert_ne!(c.open(b"", &[]), s);
}

#[test]
fn sizes_that_can_t_be_are_refused_and_huge_ones_cost_nothing() {
    let config = Config { blocks: 9, block_size: SIZE, block_bytes: u64::MAX, window: None, sharing: true };
    for (blocks, block_size, window) in
        [(0, 4, None), (1, 4, None), (9, 0, None), (9, 4, Some(0)), (1 << 30, 2, None), (usize::MAX, usize::MAX, None)]
    {
        let refused = Cache::new(Config { blocks, block_size, window, ..config });
        assert!(matches!(refused, Err(Error::Config { .. })), "{blocks} {block_size} {window:?}");
    }
    let huge = Cache::new(Config { blocks: i32::MAX as usize, block_size: 1, ..config.clone() }).unwrap();
    assert_eq!((huge.available(), huge.usage().total_bytes), (i32::MAX as usize - 1, u64::MAX));
    let mut endless = Cache::new(Config { window: Some(usize::MAX), ..config }).unwrap();
    let s = write(&mut endless, b"", &ids(0..9));
    assert_eq!(endless.table(s), [1, 2, 3]);
}
