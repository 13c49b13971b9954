//! Chips that leak are caught. In a process of its own: what others have freed hides what is leaked.

mod toy;

use std::time::Duration;

use qiao_conformance::contract::Clause;
use qiao_conformance::{Outcome, Subject};
use toy::{Chip, Fault};

#[test]
fn every_leaking_chip_is_caught_by_the_clause_that_should_catch_it() {
    let honest = Chip::new(Fault::None);
    let subject = Subject::open(move || honest.open()).unwrap();
    for clause in Clause::all().filter(|c| c.kind() == "leaks") {
        assert_eq!(clause.outcome(&subject), Outcome::Passed, "{} of a chip that leaks nothing", clause.id);
    }
    let escaped = toy::escaped(Duration::from_secs(20), |clause| clause.kind() == "leaks");
    assert!(escaped.is_empty(), "{}:\n{}", escaped.len(), escaped.join("\n"));
}
