//! Whose a card is, is asked of the card: the name of the library that drives it tells nothing.

mod rig;

use qiao_core::{Backend, Error, Result};
use qiao_cuda::{CudaBackend, Family};
use rig::card;

fn why<T>(result: Result<T>) -> String {
    match result {
        Err(Error::NotPresent { why, .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is taken"),
    }
}

/// These tests are about NVIDIA's names: under another vendor's there is nothing to ask.
fn of_another_vendor() -> bool {
    let other = rig::family().name() != "cuda";
    if other {
        println!("skipped: the simulated card has another vendor's names");
    }
    other
}

#[test]
fn a_card_of_another_maker_is_not_taken_for_one_of_nvidia() {
    if of_another_vendor() {
        return;
    }
    let card = card().alone();
    assert_eq!(CudaBackend.open(0).unwrap().info().vendor, "NVIDIA");
    card.rename("Iluvatar BI-V150");
    let why_not = why(CudaBackend.open(0));
    assert!(why_not.contains("a card of Iluvatar") && why_not.contains("QIAO_TRUST_DRIVER=cuda"), "{why_not}");
    assert!(why(CudaBackend.devices()).contains("a card of Iluvatar"));
    card.rename("Accelerator 7");
    let why_not = why(CudaBackend.open(0));
    assert!(why_not.contains("FFFF:01:00.0") && why_not.contains("Accelerator 7"), "what was asked is said: {why_not}");
}

#[test]
fn a_card_of_nobody_known_is_taken_where_its_owner_says_so() {
    if of_another_vendor() {
        return;
    }
    let card = card().alone();
    card.rename("Accelerator 7");
    // SAFETY: tests of this program that read it hold the card alone.
    unsafe { std::env::set_var("QIAO_TRUST_DRIVER", "hip, cuda") };
    let vendor = CudaBackend.open(0).map(|device| device.info().vendor.clone());
    // SAFETY: as above.
    unsafe { std::env::remove_var("QIAO_TRUST_DRIVER") };
    assert_eq!(vendor.unwrap(), "unknown");
    assert!(CudaBackend.open(0).is_err());
}

#[test]
fn every_vendor_that_is_not_here_says_what_was_looked_for() {
    if of_another_vendor() {
        return;
    }
    let _card = card().alone();
    for family in Family::ALL.into_iter().skip(1) {
        let why = why(family.devices());
        assert!(
            why.contains("not found") || why.contains("finds no card") || why.contains("is a card of NVIDIA"),
            "{why}"
        );
        assert!(matches!(family.open(0), Err(Error::NotPresent { .. })));
    }
}
