//! A plugin's answer for a node, as the contract's.

use qiao_core::{Limit, NodeSupport, NodeView, Property, Reason, Rule, Support};

use super::words;
use crate::abi;
use crate::dtypes;

/// What the records of a call say about a node.
///
/// # Errors
/// Why the answer makes no sense.
pub(super) fn answer(record: &abi::Support, node: &NodeView<'_>, can_prepack: bool) -> Result<NodeSupport, String> {
    if let Some((operand, desc)) = node.operands().find(|(_, d)| d.layout != 0 && !can_prepack) {
        // Without prepack no layout is the device's own, whatever it says.
        let layout = Limit::Text(format!("{:#x}", desc.layout));
        let (property, rule, limit) = (Property::Layout, Rule::None, Limit::None);
        return Ok(NodeSupport::no(Reason { operand: Some(operand), property, rule, value: layout, limit }));
    }
    let answer = match record.level {
        abi::SUPPORT_NATIVE => Support::Native,
        abi::SUPPORT_RELAYOUT => relayout(record, node, can_prepack)?,
        abi::SUPPORT_NO => return Ok(NodeSupport::no(Teller { record, node }.reason()?)),
        level => return Err(format!("level {level} is neither native, relayout nor no")),
    };
    let act_dtype = match record.act_dtype {
        0 => None,
        number => Some(dtypes::from_c(number).ok_or_else(|| format!("act_dtype = {number:#x} is no dtype"))?),
    };
    Ok(NodeSupport { answer, kernel: words::text(&record.kernel), act_dtype })
}

/// A refusal that says what is wrong with the plugin's answer.
pub(super) fn refused(why: &str) -> NodeSupport {
    let mut reason = Reason::operator();
    reason.value = Limit::Text(format!("the plugin's answer makes no sense: {why}"));
    NodeSupport::no(reason)
}

fn relayout(record: &abi::Support, node: &NodeView<'_>, can_prepack: bool) -> Result<Support, String> {
    let layout = record.layout;
    if layout == 0 {
        return Err("a private layout is wanted, and it is 0".into());
    }
    if !can_prepack {
        return Err(format!("private layout {layout:#x} is wanted, and there is no prepack"));
    }
    let operand = usize::try_from(record.operand).ok().and_then(|n| n.checked_sub(1));
    let desc = operand.and_then(|i| node.input(i));
    match (operand, desc) {
        (Some(operand), Some(desc)) if desc.constant && desc.layout != layout => {
            Ok(Support::Relayout { operand, layout })
        }
        (_, Some(desc)) if desc.constant => {
            Err(format!("private layout {layout:#x} is wanted for what has it already"))
        }
        (_, Some(_)) => Err(format!("private layout {layout:#x} is wanted for an operand that is not constant")),
        _ => Err(format!("private layout {layout:#x} is wanted for operand {}, which is none", record.operand)),
    }
}

struct Teller<'a> {
    record: &'a abi::Support,
    node: &'a NodeView<'a>,
}

impl Teller<'_> {
    fn reason(&self) -> Result<Reason, String> {
        let r = self.record;
        let operand = self.operand()?;
        let property = match r.reason {
            abi::REASON_NONE | abi::REASON_OPCODE => return Ok(Reason::operator()),
            abi::REASON_REVISION => Property::Revision,
            abi::REASON_ATTRIBUTE => Property::Attribute(self.attribute()?.0),
            abi::REASON_DTYPE => Property::Dtype,
            abi::REASON_RANK => Property::Rank,
            abi::REASON_DIM => Property::Dim(self.axis(operand)?),
            abi::REASON_STRIDES => Property::Strides,
            abi::REASON_ALIGN => Property::Alignment,
            abi::REASON_QUANT => Property::Quantisation,
            abi::REASON_LAYOUT => Property::Layout,
            abi::REASON_MEMORY => Property::Memory,
            abi::REASON_PRESENCE => Property::Presence,
            reason => return Err(format!("it refuses for reason {reason}, which is none")),
        };
        let rule = match r.rule {
            abi::RULE_NONE => Rule::None,
            abi::RULE_MULTIPLE_OF => Rule::MultipleOf,
            abi::RULE_AT_MOST => Rule::AtMost,
            abi::RULE_AT_LEAST => Rule::AtLeast,
            abi::RULE_EQUAL => Rule::Equal,
            abi::RULE_ONE_OF => Rule::OneOf,
            rule => return Err(format!("it refuses by rule {rule}, which is none")),
        };
        let words = words::text(&r.words);
        let limit = match rule {
            Rule::None => Limit::None,
            _ if words.is_empty() => self.limit(r.limit)?,
            _ => Limit::Text(words.clone()),
        };
        let value = match r.value {
            // Nothing was found that a number could tell.
            0 if rule == Rule::None || !words.is_empty() && self.is_told_by_words() => Limit::None,
            value => self.limit(value)?,
        };
        Ok(Reason { operand, property, rule, value, limit })
    }

    /// Whether words say what is allowed, and a value of 0 says nothing.
    fn is_told_by_words(&self) -> bool {
        use abi::{REASON_LAYOUT, REASON_MEMORY, REASON_PRESENCE, REASON_QUANT, REASON_STRIDES};
        [REASON_STRIDES, REASON_QUANT, REASON_LAYOUT, REASON_MEMORY, REASON_PRESENCE].contains(&self.record.reason)
    }

    fn operand(&self) -> Result<Option<usize>, String> {
        let count = self.node.node.inputs.len() + self.node.node.outputs.len();
        match usize::try_from(self.record.operand) {
            Ok(0) => Ok(None),
            Ok(n) if n <= count => Ok(Some(n - 1)),
            _ => Err(format!("it refuses operand {} of {count}", self.record.operand)),
        }
    }

    /// Name and C type of the attribute that the reason is about.
    fn attribute(&self) -> Result<(&'static str, &'static str), String> {
        let (_, fields) = self.node.kind().attr_fields();
        match self.record.property as usize {
            0 => Ok(("of a newer header", "uint32_t")),
            n => match fields.get(n - 1) {
                Some([name, ty, _]) => Ok((name, ty)),
                None => Err(format!("it refuses attribute {n} of {}", fields.len())),
            },
        }
    }

    fn axis(&self, operand: Option<usize>) -> Result<usize, String> {
        let desc = self.node.operands().find(|(i, _)| Some(*i) == operand).map(|(_, desc)| desc);
        let rank = desc.map_or(abi::MAX_RANK, |d| d.rank());
        match self.record.property as usize {
            n if n >= 1 && n <= rank => Ok(n - 1),
            n => Err(format!("it refuses a dim by property {n}, which is no axis + 1 of rank {rank}")),
        }
    }

    /// A number as what it stands for.
    fn limit(&self, number: i64) -> Result<Limit, String> {
        Ok(match self.record.reason {
            abi::REASON_DTYPE if number == 0 => Limit::None,
            abi::REASON_DTYPE => {
                let dtype = u32::try_from(number).ok().and_then(dtypes::from_c);
                Limit::Dtype(dtype.ok_or_else(|| format!("it refuses dtype {number:#x}, which is none"))?)
            }
            abi::REASON_ATTRIBUTE if self.attribute()?.1 == "float" => {
                Limit::Text(f32::from_bits(number as u32).to_string())
            }
            abi::REASON_LAYOUT if number != 0 => Limit::Text(format!("{number:#x}")),
            _ => Limit::Int(number),
        })
    }
}
