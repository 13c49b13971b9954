//! A generation that guesses tokens ahead gives the text of one that does not.

use qiao::{Generation, Model, Params, Piece};

const PROMPT: &str = "床前明月光，疑是地上霜。床前明月光，";

fn said(mut generation: Generation) -> (Piece, usize, usize) {
    let all = generation.collect_all().unwrap();
    let stats = generation.stats();
    assert_eq!(stats.decode_tokens, all.token_ids.len());
    (all, stats.drafted_tokens, stats.accepted_tokens)
}

#[test]
fn texts_are_those_without_guesses() {
    let (model, draft) = (Model::demo().unwrap(), Model::demo().unwrap());
    let base = Params::new().max_tokens(60).seed(3);
    let all = [
        base.clone().temperature(0.0),
        base.clone().temperature(2.0),
        base.clone().temperature(1.5).repetition_penalty(1.2),
        base.clone().temperature(0.0).ignore_eos(true).stop("低头"),
        base.temperature(0.0).ignore_eos(true).max_tokens(1),
    ];
    for params in all {
        let begin = || model.generate(PROMPT, &params).unwrap();
        let (plain, drafted, _) = said(begin());
        assert_eq!(drafted, 0);
        for most in [1, 3, 8] {
            let (text, drafted, accepted) = said(begin().prompt_lookup(most).unwrap());
            assert_eq!(text, plain, "lookup of {most}");
            assert!(accepted <= drafted);
            let (text, drafted, accepted) = said(begin().draft_model(&draft, most).unwrap());
            assert_eq!(text, plain, "draft of {most}");
            assert!(accepted <= drafted && (drafted > 0 || plain.token_ids.len() < 2), "{accepted} of {drafted}");
        }
    }
}

#[test]
fn a_model_that_drafts_for_itself_is_believed_and_saves_steps() {
    let model = Model::demo().unwrap();
    let params = Params::new().max_tokens(40).temperature(0.0).ignore_eos(true);
    let (_, drafted, accepted) = said(model.generate(PROMPT, &params).unwrap().draft_model(&model, 4).unwrap());
    assert!(accepted > 24 && drafted - accepted < 5, "{accepted} of {drafted}");
}

#[test]
fn a_guessing_generation_is_kept_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let model = Model::demo().unwrap();
    let params = |tokens| Params::new().max_tokens(tokens).temperature(0.0).ignore_eos(true);
    let whole = model.generate(PROMPT, &params(30)).unwrap().collect_all().unwrap().token_ids;
    for first in [1, 5, 12, 17] {
        let mut generation = model.generate(PROMPT, &params(first)).unwrap().draft_model(&model, 6).unwrap();
        assert_eq!(generation.collect_all().unwrap().token_ids, whole[..first]);
        generation.save(&path).unwrap();
        let resumed = model.resume(&path, "", &params(30 - first)).unwrap().prompt_lookup(4).unwrap();
        assert_eq!(said(resumed).0.token_ids, whole[first..]);
    }
}
