//! Nodes that are written anew for engines: with every batch in mind, or in operators that all of them have.

use rten_onnx::onnx::{AttributeProto, AttributeType, NodeProto};

use super::{Kept, Ruled, Walk, malformed};
use crate::dim::{DType, Dim, show};
use crate::error::ModelError;
use crate::fact::{Fact, Num, Small};

impl Walk<'_> {
    /// Local response normalisation, written in operators that every engine has: for a window of n channels
    /// `x / (bias + alpha × mean of x²)^beta`, the mean by a pool over the channels as if they were rows.
    pub(super) fn local_response(&mut self, node: &NodeProto, index: usize) -> Result<(), ModelError> {
        let Ruled::Kept { outcome, .. } = self.ruling(node, "LRN")? else {
            return Err(malformed("LRN of a constant"));
        };
        let (input, output) = (node.input[0].clone(), node.output[0].clone());
        let fact = self
            .facts
            .get(&input)
            .cloned()
            .ok_or_else(|| malformed("input 0 is missing"))?;
        let [Dim::BATCH, channels, space @ ..] = fact.dims.as_slice() else {
            return Err(malformed(format!("LRN of {}", show(&fact.dims))));
        };
        let find = |name: &str| node.attribute.iter().find(|a| a.name.as_deref() == Some(name));
        let float = |name: &str, default: f32| find(name).and_then(|a| a.f).unwrap_or(default);
        let size = find("size")
            .and_then(|a| a.i)
            .filter(|s| (1..1 << 16).contains(s));
        let size = size.ok_or_else(|| malformed("LRN without a size"))?;
        let area = space.iter().fold(1usize, |n, d| n.saturating_mul(d.coef));

        let name = |part: &str| format!("graft:lrn-{part}:{index}");
        let ints = |list: Vec<i64>| {
            let nums = list.into_iter().map(|v| Num::fixed(v as f64)).collect();
            Fact::from_small(Small::list(nums), DType::I64)
        };
        let scalar = |v: f32| Fact::from_small(Small::scalar(Num::fixed(f64::from(v))), DType::F32);
        let mut shape: Vec<i64> = vec![-1, channels.coef as i64];
        shape.extend(space.iter().map(|d| d.coef as i64));
        for (part, constant) in [
            ("rows", ints(vec![-1, 1, channels.coef as i64, area as i64])),
            ("shape", ints(shape)),
            ("alpha", scalar(float("alpha", 1e-4))),
            ("bias", scalar(float("bias", 1.0))),
            ("beta", scalar(float("beta", 0.75))),
        ] {
            self.facts.insert(name(part), constant);
            self.provide(&name(part))?;
        }
        let mut pool = operator(
            "AveragePool",
            &[&name("as-rows")],
            &name("mean-rows"),
            &[("count_include_pad", 1)],
        );
        let pads = [(size - 1) / 2, 0, size / 2, 0];
        for (attribute, values) in [
            ("kernel_shape", &[size, 1][..]),
            ("pads", &pads[..]),
            ("strides", &[1, 1][..]),
        ] {
            pool.attribute.push(AttributeProto {
                name: Some(attribute.to_owned()),
                ints: values.to_vec(),
                r#type: Some(AttributeType::INTS),
                ..AttributeProto::default()
            });
        }
        let steps = [
            operator("Mul", &[&input, &input], &name("squares"), &[]),
            operator(
                "Reshape",
                &[&name("squares"), &name("rows")],
                &name("as-rows"),
                &[],
            ),
            pool,
            operator(
                "Reshape",
                &[&name("mean-rows"), &name("shape")],
                &name("mean"),
                &[],
            ),
            operator("Mul", &[&name("mean"), &name("alpha")], &name("scaled"), &[]),
            operator("Add", &[&name("scaled"), &name("bias")], &name("biased"), &[]),
            operator("Pow", &[&name("biased"), &name("beta")], &name("divisor"), &[]),
            operator("Div", &[&input, &name("divisor")], &output, &[]),
        ];
        let flops = outcome.flops.unwrap_or(0);
        for proto in steps {
            self.facts
                .insert(proto.output[0].clone(), Fact::data(fact.dims.clone(), fact.dtype));
            self.kept.push(Kept {
                proto,
                data: true,
                flops: flops / 8,
            });
        }
        Ok(())
    }

    /// Constants that are joined to data grow with the batch: a class token, say.
    pub(super) fn repeat_constants(&mut self, node: &mut NodeProto, index: usize) -> Result<(), ModelError> {
        let like = node
            .input
            .iter()
            .find(|n| {
                self.facts
                    .get(*n)
                    .is_some_and(|f| f.is_data() && f.dims.first() == Some(&Dim::BATCH))
            })
            .cloned();
        let Some(like) = like else { return Ok(()) };
        for (i, name) in node.input.iter_mut().enumerate() {
            let Some(fact) = self.facts.get(name.as_str()).cloned() else {
                continue;
            };
            if fact.is_data() || fact.dims.first() != Some(&Dim::ONE) {
                continue;
            }
            self.provide(name)?;
            let names =
                ["batch", "target", "repeated", "rest"].map(|part| format!("graft:{part}:{index}:{i}"));
            let [batch, target, repeated, rest] = &names;
            let others = fact.dims[1..].iter().map(|&d| d.into()).collect();
            let others = Fact::from_small(Small::list(others), DType::I64);
            self.facts.insert(rest.clone(), others);
            self.provide(rest)?;
            // Only a part of the shape is asked for: rten 0.27 would take a whole shape's symbolic batch
            // from the model's input, which a run from an inner cut point has not.
            let helpers = [
                operator("Shape", &[&like], batch, &[("start", 0), ("end", 1)]),
                operator("Concat", &[batch, rest], target, &[("axis", 0)]),
                operator("Expand", &[name.as_str(), target], repeated, &[]),
            ];
            for proto in helpers {
                let made = Fact::data(fact.dims.clone(), fact.dtype);
                self.facts.insert(proto.output[0].clone(), made);
                self.kept.push(Kept {
                    proto,
                    data: true,
                    flops: 0,
                });
            }
            *name = repeated.clone();
        }
        Ok(())
    }
}

fn operator(kind: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]) -> NodeProto {
    NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(kind.to_owned()),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attributes
            .iter()
            .map(|&(name, i)| AttributeProto {
                name: Some(name.to_owned()),
                i: Some(i),
                r#type: Some(AttributeType::INT),
                ..AttributeProto::default()
            })
            .collect(),
        domain: None,
    }
}
