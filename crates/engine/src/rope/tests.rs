use super::*;
use crate::config::ModelConfig;
use qiao_core::DType;
use serde_json::{Value, json};

fn model(head_dim: usize, max_positions: usize, rope: Value) -> (ModelConfig, RopeTables) {
    let config = json!({
        "model_type": "llama", "hidden_size": head_dim * 4, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 8, "max_position_embeddings": max_positions, "rope_parameters": rope
    });
    let config = ModelConfig::from_json("config.json", config.to_string().as_bytes()).unwrap();
    let tables = RopeTables::new(&config.rope, config.head_dim, config.max_position_embeddings);
    (config, tables)
}

fn refusal(rope: Value) -> String {
    let config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 8, "max_position_embeddings": 64, "rope_parameters": rope
    });
    ModelConfig::from_json("config.json", config.to_string().as_bytes()).unwrap_err().to_string()
}

#[track_caller]
fn assert_near(found: f32, expected: f64, relative: f64) {
    assert!((f64::from(found) - expected).abs() <= expected.abs() * relative, "{found} is not {expected}");
}

/// Frequencies to a few units of the last place, cos and sin to what an error of one unit in the angle allows.
#[track_caller]
fn assert_matches_reference(tables: &RopeTables, length: usize, frequencies: &[f64], cos: &[f64], sin: &[f64]) {
    let regime = tables.for_length(length);
    let found = tables.inverse_frequencies(regime);
    assert_eq!(found.len(), frequencies.len());
    for (found, expected) in found.iter().zip(frequencies) {
        assert_near(*found, *expected, 4e-7);
    }
    let table = tables.table(regime, length - 1..length);
    assert_eq!((table.positions, table.half), (1, frequencies.len()));
    for (found, expected) in table.cos.iter().zip(cos).chain(table.sin.iter().zip(sin)) {
        assert!((f64::from(*found) - expected).abs() < 2e-5, "{found} is not {expected}");
    }
}

#[test]
fn llama3_frequencies_are_the_published_ones() {
    let (_, tables) = model(
        128,
        131072,
        json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    );
    let found = tables.inverse_frequencies(tables.for_length(100_000));
    let expected = [
        (0, 1.0),
        (28, 3.211445995e-3),
        (29, 2.166570764e-3),
        (30, 1.371893568e-3),
        (32, 5.248461610e-4),
        (34, 1.785078128e-4),
        (35, 9.556212354e-5),
        (63, 3.068925989e-7),
    ];
    for (i, value) in expected {
        assert_near(found[i], value, 1e-6);
    }
}

#[test]
fn yarn_frequencies_are_the_published_ones_for_deepseek_v3() {
    let (_, tables) = model(
        64,
        163840,
        json!({"type": "yarn", "rope_theta": 10000.0, "factor": 40.0,
        "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0}),
    );
    let found = tables.inverse_frequencies(RopeRegime::Base);
    let expected = [
        (10, 5.623413252e-2),
        (11, 3.900692657e-2),
        (16, 5.5e-3),
        (20, 7.905694150e-4),
        (23, 3.333803580e-5),
        (31, 3.333803580e-6),
    ];
    for (i, value) in expected {
        assert_near(found[i], value, 1e-6);
    }
    assert_eq!(tables.table(RopeRegime::Base, 0..1).cos[0], 1.0);
}

#[test]
fn yarn_frequencies_are_the_published_ones_for_qwen2_5() {
    let (config, tables) = model(
        128,
        131072,
        json!({"type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}),
    );
    let RopeScaling::Yarn { attention_factor, .. } = config.rope.scaling else { panic!("not yarn") };
    assert!((attention_factor - 1.138629436).abs() < 1e-9);
    let found = tables.inverse_frequencies(RopeRegime::Base);
    for (i, value) in [(23, 6.978305849e-3), (30, 1.064360981e-3), (40, 4.445698525e-5), (63, 3.102344402e-7)] {
        assert_near(found[i], value, 1e-6);
    }
}

#[test]
fn plain_and_linear_tables_match_the_reference() {
    let (_, tables) = model(16, 64, json!({"rope_type": "default", "rope_theta": 10000.0}));
    assert!(!tables.depends_on_length());
    assert_matches_reference(
        &tables,
        5,
        &[1.0, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786],
        &[-0.653643608, 0.301137477, 0.921060979, 0.992010653, 0.999200106, 0.999920011, 0.999992013, 0.999999225],
        &[-0.756802499, 0.953580737, 0.389418364, 0.12615408, 0.0399893336, 0.0126487743, 0.00399998948, 0.0012649108],
    );
    let (_, tables) = model(16, 64, json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}));
    assert_matches_reference(
        &tables,
        50,
        &[
            0.333333343,
            0.105409257,
            0.0333333351,
            0.0105409259,
            0.00333333318,
            0.00105409266,
            0.000333333359,
            0.000105409265,
        ],
        &[-0.810746133, 0.437363118, -0.0624963641, 0.869550288, 0.98669076, 0.998666406, 0.999866605, 0.999986649],
        &[-0.58539784, -0.899285018, 0.998045206, 0.49384439, 0.162608072, 0.0516275764, 0.0163326077, 0.00516503118],
    );
}

#[test]
fn dynamic_frequencies_change_with_every_length_past_the_context() {
    let (_, tables) = model(16, 64, json!({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}));
    assert_eq!(tables.for_length(64), RopeRegime::Base);
    assert_eq!(tables.for_length(65), RopeRegime::Dynamic(65));
    assert_matches_reference(
        &tables,
        64,
        &[1.0, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786],
        &[0.985896587, 0.477671444, 0.999858618, -0.40907374, 0.808027506, 0.980220556, 0.998016179, 0.999801576],
        &[0.167355701, 0.878538549, 0.0168140903, 0.912501335, 0.589144766, 0.197908252, 0.0629583374, 0.0199210308],
    );
    assert_matches_reference(
        &tables,
        65,
        &[1.0, 0.313500851, 0.0982827842, 0.0308117364, 0.00965950545, 0.00302826311, 0.000949363108, 0.000297626131],
        &[0.391857237, 0.348806918, 0.999976099, -0.39048174, 0.81491816, 0.981277764, 0.9981547, 0.999818563],
        &[0.920026064, 0.937194586, 0.00691282796, 0.920610666, 0.579576015, 0.192597806, 0.0607218631, 0.0190469213],
    );
    assert_matches_reference(
        &tables,
        200,
        &[1.0, 0.229258373, 0.0525593981, 0.0120496824, 0.00276249065, 0.000633324089, 0.000145194848, 3.32871314e-05],
        &[-0.471625715, -0.0692684576, -0.510919631, -0.735964656, 0.852662683, 0.992068529, 0.999582589, 0.999978065],
        &[-0.881798863, 0.997598052, -0.859628499, 0.677019954, 0.522461891, 0.125698105, 0.0288897548, 0.00662409049],
    );
}

#[test]
fn llama3_and_yarn_tables_match_the_reference() {
    let (_, tables) = model(
        16,
        64,
        json!({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
    );
    assert_matches_reference(
        &tables,
        100,
        &[
            1.0,
            0.0242403448,
            0.00470075384,
            0.000911583134,
            0.000176776681,
            3.42810235e-05,
            6.64786967e-06,
            1.28917316e-06,
        ],
        &[0.0398208797, -0.73725462, 0.893653512, 0.995930493, 0.999846876, 0.999994218, 0.999999762, 1.0],
        &[
            -0.999206841,
            0.675615013,
            0.448757619,
            0.0901242793,
            0.0174999982,
            0.0033938149,
            0.000658139063,
            0.00012762814,
        ],
    );
    let (_, tables) = model(
        16,
        64,
        json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}),
    );
    assert_matches_reference(
        &tables,
        100,
        &[1.0, 0.197642356, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05],
        &[0.0453412272, 0.85824877, -0.894886613, 0.807331145, 1.10393298, 1.13514388, 1.13828075, 1.13859451],
        &[-1.13772631, 0.748255312, 0.704027712, 0.80292803, 0.278942466, 0.0890254453, 0.028178202, 0.00891154818],
    );
}

#[test]
fn yarn_without_truncation_and_with_mscale_matches_the_reference() {
    let (_, tables) = model(
        16,
        64,
        json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
        "truncate": false, "mscale": 0.707, "mscale_all_dim": 1.3, "beta_fast": 16, "beta_slow": 2}),
    );
    assert_matches_reference(
        &tables,
        100,
        &[1.0, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05],
        &[0.037047185, 0.0254365429, -0.731189549, 0.659650147, 0.901996136, 0.927497685, 0.930060804, 0.930317223],
        &[-0.929607809, 0.929997921, 0.575243473, 0.65605247, 0.227916926, 0.0727404729, 0.0230237059, 0.00728140399],
    );
}

#[test]
fn longrope_switches_to_its_long_divisors_past_the_original_context() {
    let (_, tables) = model(
        16,
        64,
        json!({"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], "long_factor": [1.0, 2, 3, 4, 5, 6, 7, 8.5]}),
    );
    assert!(tables.depends_on_length());
    assert_eq!((tables.for_length(32), tables.for_length(33)), (RopeRegime::Base, RopeRegime::Long));
    assert_matches_reference(
        &tables,
        32,
        &[1.0, 0.287479758, 0.0833333358, 0.0243252143, 0.00714285718, 0.00210818532, 0.000624999986, 0.000186016332],
        &[1.00205004, -0.954486132, -0.929133058, 0.798470557, 1.06869948, 1.09310663, 1.09523952, 1.09542692],
        &[-0.442601085, 0.537546515, 0.580268741, 0.749963224, 0.240585536, 0.0715404898, 0.0212229211, 0.00631685602],
    );
    assert_matches_reference(
        &tables,
        33,
        &[1.0, 0.158113882, 0.0333333351, 0.00790569466, 0.00200000009, 0.00052704633, 0.000142857141, 3.72032664e-05],
        &[0.913845897, 0.372799903, 0.52914989, 1.06057739, 1.09320247, 1.09528935, 1.09543371, 1.09544432],
        &[0.604057729, -1.03005838, 0.959166586, 0.274181545, 0.0700606406, 0.0184743367, 0.00500773173, 0.00130413217],
    );
}

#[test]
fn longrope_with_one_set_of_divisors_does_not_look_at_the_length() {
    let divisors = [1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0];
    let (_, tables) = model(
        16,
        64,
        json!({"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
        "attention_factor": 1.5, "short_factor": divisors, "long_factor": divisors}),
    );
    assert!(!tables.depends_on_length());
    assert_eq!((tables.for_length(32), tables.for_length(64)), (RopeRegime::Base, RopeRegime::Base));
    let plain = RopeTables::new(&RopeConfig::plain(10000.0), 16, 64).inverse_frequencies(RopeRegime::Base);
    for ((found, plain), divisor) in tables.inverse_frequencies(RopeRegime::Base).iter().zip(plain).zip(divisors) {
        assert!((f64::from(found * divisor as f32) / f64::from(plain) - 1.0).abs() < 1e-6, "{found}");
    }
    assert_eq!(tables.table(RopeRegime::Base, 0..1).cos, [1.5; 8]);
}

#[test]
fn a_partial_rope_rotates_the_first_part_of_a_head() {
    let (config, tables) =
        model(16, 64, json!({"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}));
    assert_eq!((config.rope.rotary_dim(16), tables.rotary_dim()), (8, 8));
    assert_eq!(tables.inverse_frequencies(RopeRegime::Base), [1.0, 0.1, 0.01, 0.001]);
}

#[test]
fn rounding_follows_the_compute_dtype() {
    let (_, tables) = model(16, 64, json!({"rope_type": "default"}));
    let table = tables.table(RopeRegime::Base, 0..9);
    assert_eq!(table.clone().rounded_to(DType::F32), table);
    let rounded = table.clone().rounded_to(DType::BF16);
    assert_ne!(rounded, table);
    assert!(rounded.cos.iter().all(|c| c.to_bits() & 0xFFFF == 0));
    assert_eq!(table.cos.len(), 9 * 8);
}

#[test]
fn per_layer_type_ropes_are_taken_when_equal_and_refused_when_not() {
    let plain = json!({"rope_type": "default", "rope_theta": 5.0});
    let (config, _) = model(16, 64, json!({"full_attention": plain, "sliding_attention": plain}));
    assert_eq!(config.rope.theta, 5.0);
    let message =
        refusal(json!({"full_attention": plain, "sliding_attention": {"rope_type": "default", "rope_theta": 6.0}}));
    assert!(message.contains("rope_parameters.full_attention") && message.contains("layer type"), "{message}");
}

#[test]
fn wrong_rope_keys_are_named() {
    let cases = [
        (json!({"rope_type": "spiral"}), "rope_parameters.rope_type"),
        (json!({"rope_type": "linear"}), "rope_parameters.factor"),
        (json!({"rope_type": "dynamic", "factor": -1.0}), "rope_parameters.factor"),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}),
            "high_freq_factor",
        ),
        (json!({"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 1.0}), "low_freq_factor"),
        (json!({"rope_type": "yarn", "factor": 2.0, "truncate": 1}), "truncate"),
        (json!({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}), "rope_theta"),
        (json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}), "short_factor"),
        (json!({"rope_type": "default", "partial_rotary_factor": 0.2}), "partial_rotary_factor"),
        (json!({"rope_type": "default", "partial_rotary_factor": 1.5}), "partial_rotary_factor"),
    ];
    for (rope, key) in cases {
        let message = refusal(rope);
        assert!(message.contains(key), "{key}: {message}");
    }
}
