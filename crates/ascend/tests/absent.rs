//! A machine without AscendCL.

use qiao_ascend::AscendBackend;
use qiao_core::{Backend, Error};

#[test]
fn without_a_library_the_backend_is_not_present_and_says_what_to_set() {
    match AscendBackend::default().devices() {
        Err(Error::NotPresent { what, why }) => {
            assert_eq!(what, "ascend");
            for word in ["libascendcl.so", "ASCEND_TOOLKIT_HOME", "set_env.sh"] {
                assert!(why.contains(word), "{why}");
            }
            assert!(matches!(AscendBackend::default().open(0), Err(Error::NotPresent { .. })));
        }
        // A machine with a chip: what it lists can be opened.
        found => {
            let count = found.unwrap().len();
            assert!((0..count).all(|i| AscendBackend::default().open(i).is_ok()));
        }
    }
}

#[test]
fn a_folder_that_was_named_is_the_only_one() {
    let why = AscendBackend::with_libraries("/nowhere").open(0).err().unwrap().to_string();
    assert!(why.contains("/nowhere/libascendcl.so") && !why.contains("/usr/local"), "{why}");
}
