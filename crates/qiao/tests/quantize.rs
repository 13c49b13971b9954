//! The demo model, quantised and evaluated beside itself.

use std::path::{Path, PathBuf};

use qiao::quantize::{Format, Report};
use qiao::{Eval, Evaluation, Model, ModelOptions, Quantize};

/// What the demo was trained on is like this.
const POEMS: &str = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n白日依山尽，黄河入海流。欲穷千里目，更上一层楼。\n\
                     春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。\n\
                     红豆生南国，春来发几枝。愿君多采撷，此物最相思。\n空山不见人，但闻人语响。返景入深林，复照青苔上。\n";

const CONTEXT: usize = 64;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo")
}

fn load(path: &Path) -> Model {
    let options = ModelOptions::new().context(CONTEXT).dtype(qiao::DType::F32);
    options.load(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The demo in a format, and how far it is from the demo in the same compute dtype.
fn quantised(format: Format, name: &str) -> (Report, Evaluation) {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join(name);
    let report = Quantize::new(format).run(demo(), &to).unwrap().unwrap();
    let found = Eval::text(POEMS).context(CONTEXT).against(&load(&to), &load(&demo())).unwrap().unwrap();
    (report, found)
}

#[test]
fn quantised_folders_stay_near_the_demo() {
    for (name, group_size, bits, kl) in
        [("w8a16", None, 8.2, 1e-3), ("w8a8", None, 8.3, 5e-3), ("fp8", None, 8.3, 5e-2), ("w4a16", Some(64), 4.6, 0.3)]
    {
        let format: Format = name.parse().unwrap();
        let format = group_size.map_or(format, |size| format.with_group_size(size).unwrap());
        let (report, found) = quantised(format, name);
        let against = found.against.unwrap();
        println!("{name}: {:?}", against.kl);
        let projection = report.tensors.iter().find(|line| line.name.contains("down_proj")).unwrap();
        assert!(projection.bits < bits, "{name}: {} bits", projection.bits);
        assert!(against.kl.mean.value < kl && against.kl.mean.value > 0.0, "{name}: {:?}", against.kl);
    }
}
