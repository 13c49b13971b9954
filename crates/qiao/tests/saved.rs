//! Generations kept in files: what comes after is what would have come.

use std::sync::Arc;

use qiao::core::noop::NoopDevice;
use qiao::{Message, Model, ModelOptions, Params, Prompt};

const PROMPT: &str = "床前明月光";

fn greedy(tokens: usize) -> Params {
    Params::new().temperature(0.0).max_tokens(tokens).ignore_eos(true)
}

fn ids(model: &Model, prompt: impl Into<Prompt>, tokens: usize) -> Vec<u32> {
    model.generate(prompt, &greedy(tokens)).unwrap().collect_all().unwrap().token_ids
}

#[test]
fn a_kept_text_goes_on_as_if_it_had_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let host_only = || ModelOptions::new().on(Arc::new(NoopDevice::default())).host_fallback().demo().unwrap();
    for (saver, reader) in [(Model::demo().unwrap(), Model::demo().unwrap()), (host_only(), host_only())] {
        let whole = ids(&saver, PROMPT, 20);
        for first in [1, 8, 19] {
            let mut generation = saver.generate(PROMPT, &greedy(first)).unwrap();
            assert_eq!(generation.collect_all().unwrap().token_ids, whole[..first]);
            generation.save(&path).unwrap();
            let mut resumed = reader.resume(&path, "", &greedy(20 - first)).unwrap();
            assert_eq!(resumed.collect_all().unwrap().token_ids, whole[first..]);
            let (stats, prompt) = (resumed.stats(), saver.encode(PROMPT).unwrap().len());
            assert_eq!((stats.prompt_tokens, stats.restored_tokens), (prompt + first, prompt + first - 1));
        }
    }
}

#[test]
fn keeping_a_text_on_its_way_changes_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let model = Model::demo().unwrap();
    let whole = ids(&model, PROMPT, 12);
    let mut generation = model.generate(PROMPT, &greedy(12)).unwrap();
    let mut given = Vec::new();
    generation.save(&path).unwrap();
    while let Some(piece) = generation.next() {
        given.extend(piece.unwrap().token_ids);
        generation.save(&path).unwrap();
        let mut resumed = model.resume(&path, "", &greedy(12)).unwrap();
        let after = resumed.collect_all().unwrap().token_ids;
        assert_eq!(after[..12 - given.len()], whole[given.len()..]);
    }
    assert_eq!(given, whole);
}

#[test]
fn what_is_given_comes_after_the_tokens_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let model = Model::demo().unwrap();
    let first = model.encode(PROMPT).unwrap();
    let mut generation = model.generate(&first[..], &greedy(4)).unwrap();
    let answer = generation.collect_all().unwrap().token_ids;
    generation.save(&path).unwrap();
    let more = [7u32, 9, 11];
    let all = [&first[..], &answer, &more].concat();
    let mut resumed = model.resume(&path, &more[..], &greedy(9)).unwrap();
    assert_eq!(resumed.collect_all().unwrap().token_ids, ids(&model, all, 9));
    assert_eq!(resumed.stats().restored_tokens, first.len() + answer.len());
}

#[test]
fn of_a_conversation_that_runs_which_the_file_does_not_begin_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let model = Model::demo().unwrap();
    let turn = |text: &str| vec![Message::new("user", text)];
    let mut generation = model.generate(turn("明月几时有"), &greedy(3)).unwrap();
    generation.collect_all().unwrap();
    generation.save(&path).unwrap();
    for (text, all) in [("明月几时有", true), ("大江东去", false)] {
        let mut resumed = model.resume(&path, turn(text), &greedy(9)).unwrap();
        assert_eq!(resumed.collect_all().unwrap().token_ids, ids(&model, turn(text), 9));
        let stats = resumed.stats();
        assert_eq!(stats.restored_tokens == stats.prompt_tokens - 1, all, "{stats:?}");
    }
}

#[test]
fn a_file_that_does_not_fit_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let model = Model::demo().unwrap();
    assert!(model.resume(&path, "", &greedy(1)).is_err());
    model.generate(PROMPT, &greedy(1)).unwrap().save(&path).unwrap();
    let error = model.resume(&path, "", &greedy(1)).err().unwrap();
    assert!(error.to_string().contains("no tokens"), "nothing had run: {error}");
    let mut generation = model.generate(PROMPT, &greedy(30)).unwrap();
    generation.collect_all().unwrap();
    generation.save(&path).unwrap();
    let short = ModelOptions::new().context(20).demo().unwrap();
    let error = short.resume(&path, "", &greedy(1)).err().unwrap();
    assert!(error.to_string().contains("context of 20"), "{error}");
}

#[test]
fn a_kept_text_that_was_sampled_goes_on_with_its_own_luck() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let model = Model::demo().unwrap();
    // Two poems by heart leave little to luck: a high temperature.
    let params = |tokens| Params::new().temperature(3.0).seed(5).max_tokens(tokens).ignore_eos(true);
    let whole = model.generate(PROMPT, &params(24)).unwrap().collect_all().unwrap().token_ids;
    assert_ne!(whole, ids(&model, PROMPT, 24));
    let mut generation = model.generate(PROMPT, &params(9)).unwrap();
    generation.collect_all().unwrap();
    generation.save(&path).unwrap();
    let after = model.resume(&path, "", &params(15)).unwrap().collect_all().unwrap().token_ids;
    assert_eq!(after, whole[9..]);
}
