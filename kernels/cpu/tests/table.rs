//! The table of each tier, and what is refused.

mod oracle;

use oracle::tables;
use qiao_kernels_cpu::{Features, Isa, IsaError, detect, kernels};

/// The tier whose f32 arithmetic a tier has: tiles have none.
fn floats(isa: Isa) -> Isa {
    isa.min(Isa::Avx512)
}

#[test]
fn names_say_the_tile_and_the_tier() {
    for k in tables() {
        let tiles = [
            (k.gemm_f32.name, "gemm_f32", k.gemm_f32.mr, k.gemm_f32.nr),
            (k.gemm_f16.name, "gemm_f16", k.gemm_f16.mr, k.gemm_f16.nr),
            (k.gemm_bf16.name, "gemm_bf16", k.gemm_bf16.mr, k.gemm_bf16.nr),
        ];
        for (name, what, mr, nr) in tiles {
            let (name, how) = name.split_once('.').unwrap();
            assert_eq!(name, format!("{what}_{mr}x{nr}"));
            assert_eq!(how, floats(k.isa).name(), "{name}");
        }
        let (name, how) = k.gemm_i8.name.split_once('.').unwrap();
        assert_eq!(name, format!("gemm_i8_{}x{}", k.gemm_i8.mr, k.gemm_i8.nr));
        assert!(how.parse::<Isa>().unwrap() <= k.isa);
        assert_eq!(k.pack_a_i8.name, format!("pack_a_i8.{how}"));
        if let Some(dot) = k.gemm_bf16_dot {
            assert_eq!(dot.name, format!("gemm_bf16_dot_{}x{}.{}", dot.mr, dot.nr, k.isa));
        }
        for name in [k.gemv_bf16.name, k.rows_f32.rms_norm.name, k.pv_f16.name, k.exp.name] {
            assert!(name.ends_with(&format!(".{}", floats(k.isa))), "{name}");
        }
        assert_eq!([k.gemm_f32.mr; 2], [k.gemm_f16.mr, k.gemm_bf16.mr], "one packing of A for all");
    }
}

#[test]
fn blocks_of_k_fit_every_step() {
    for k in tables() {
        let lengths = [k.gemm_f32.kc, k.gemm_f16.kc, k.gemm_bf16.kc, k.gemm_i8.kc];
        assert!(lengths.iter().all(|kc| *kc > 0 && kc % 4 == 0), "{lengths:?}");
    }
}

#[test]
fn a_tier_beyond_the_features_is_refused() {
    let error = kernels(Isa::Avx2, &Features::NONE).unwrap_err();
    assert_eq!(error, IsaError::Missing { asked: Isa::Avx2, best: Isa::Scalar });
    assert!(error.to_string().contains("avx2"), "{error}");
    assert_eq!(kernels(Isa::Scalar, &Features::NONE).unwrap().isa, Isa::Scalar);
}

#[test]
fn features_that_the_machine_lacks_are_refused() {
    let machine = detect();
    let claim =
        Features { isa: Isa::Avx512, avx512_bf16: true, avx512_vnni: true, avx512_vbmi: true, bf16_dot_is_fast: true };
    let has_all = machine.isa >= Isa::Avx512 && machine.avx512_bf16 && machine.avx512_vnni && machine.avx512_vbmi;
    assert_eq!(kernels(Isa::Scalar, &claim).is_ok(), has_all);
}

#[test]
fn the_dot_kernel_is_absent_where_it_is_slow() {
    let machine = detect();
    let slow = Features { bf16_dot_is_fast: false, ..machine };
    for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| *isa <= machine.isa) {
        let kernels = kernels(isa, &slow).unwrap();
        assert!(kernels.gemm_bf16_dot.is_none() && kernels.gemv_bf16_dot.is_none());
    }
}

#[test]
fn tiers_are_words_and_ordered() {
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(isa));
    }
    assert!(Isa::Scalar < Isa::Avx2 && Isa::Avx2 < Isa::Avx512 && Isa::Avx512 < Isa::Amx);
    let error = "sse9".parse::<Isa>().unwrap_err().to_string();
    assert!(error.contains("sse9") && error.contains("avx512 or amx"), "{error}");
}

#[test]
fn tiles_that_the_machine_lacks_are_refused() {
    let machine = detect();
    let claim = Features { isa: Isa::Amx, ..machine };
    match kernels(Isa::Amx, &claim) {
        Ok(table) => assert_eq!((table.isa, machine.isa), (Isa::Amx, Isa::Amx)),
        Err(e) => {
            assert_eq!(e, IsaError::Missing { asked: Isa::Amx, best: machine.isa });
            assert!(machine.isa < Isa::Amx && e.to_string().contains("tier amx was asked for"), "{e}");
        }
    }
}
