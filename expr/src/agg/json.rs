//! JSON_ARRAYAGG and JSON_OBJECTAGG.

use std::borrow::Cow;

use cairn_types::json::JsonValue;
use cairn_types::{Column, DatumRef, Json, errno};

use super::{AggDesc, AggFunc, GroupedAgg, bad_partial, missing_argument};
use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::convert;
use crate::expr::Expr;

pub(super) struct ArrayAgg {
    arg: Option<Expr>,
    groups: Vec<Vec<Json>>,
    bytes: usize,
}

impl ArrayAgg {
    pub fn new(desc: &AggDesc) -> ArrayAgg {
        ArrayAgg { arg: desc.args.first().cloned(), groups: Vec::new(), bytes: 0 }
    }

    fn write(&self, group: usize, out: &mut Column) {
        let elements = &self.groups[group];
        if elements.is_empty() {
            return out.push_null();
        }
        let elements = elements.iter().map(|json| JsonValue::Ref(json.as_ref())).collect();
        let array = Json::from_value(&JsonValue::Array(elements));
        out.push(DatumRef::Json(array.as_ref()));
    }
}

impl GroupedAgg for ArrayAgg {
    fn ensure_groups(&mut self, groups: usize) {
        self.groups.resize_with(groups.max(self.groups.len()), Vec::new);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        let column = args.first().ok_or_else(|| missing_argument(AggFunc::JsonArrayAgg))?;
        for (row, group) in groups.iter().enumerate() {
            let json = convert::to_json_value(&column.get(row).to_owned(), self.arg.as_ref())?;
            self.bytes += json.as_bytes().len() + size_of::<Json>();
            self.groups[*group as usize].push(json);
        }
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let column = partial.first().ok_or_else(|| bad_partial(AggFunc::JsonArrayAgg))?;
        for (row, group) in groups.iter().enumerate() {
            let DatumRef::Json(array) = column.get(row) else { continue };
            for element in array.elements() {
                self.bytes += element.as_bytes().len() + size_of::<Json>();
                self.groups[*group as usize].push(element.to_json());
            }
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(AggFunc::JsonArrayAgg)) };
        self.write(group, column);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.write(group, out);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Vec<Json>>() + self.bytes
    }
}

pub(super) struct ObjectAgg {
    args: Vec<Expr>,
    groups: Vec<Vec<(String, Json)>>,
    bytes: usize,
}

impl ObjectAgg {
    pub fn new(desc: &AggDesc) -> ObjectAgg {
        ObjectAgg { args: desc.args.clone(), groups: Vec::new(), bytes: 0 }
    }

    fn write(&self, group: usize, out: &mut Column) {
        let members = &self.groups[group];
        if members.is_empty() {
            return out.push_null();
        }
        let members = members
            .iter()
            .map(|(key, json)| (Cow::Borrowed(key.as_str()), JsonValue::Ref(json.as_ref())));
        let object = Json::from_value(&JsonValue::Object(members.collect()));
        out.push(DatumRef::Json(object.as_ref()));
    }
}

impl GroupedAgg for ObjectAgg {
    fn ensure_groups(&mut self, groups: usize) {
        self.groups.resize_with(groups.max(self.groups.len()), Vec::new);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        let [keys, values] = args else { return Err(missing_argument(AggFunc::JsonObjectAgg)) };
        let key_ty = self.args[0].ty();
        for (row, group) in groups.iter().enumerate() {
            let key = keys.get(row).to_owned();
            if key.is_null() {
                return Err(ExprError::mysql(errno::ER_JSON_DOCUMENT_NULL_KEY, &[]));
            }
            let key = String::from_utf8_lossy(&convert::to_bytes(&key, key_ty)).into_owned();
            let json = convert::to_json_value(&values.get(row).to_owned(), self.args.get(1))?;
            self.bytes += key.len() + json.as_bytes().len() + size_of::<(String, Json)>();
            self.groups[*group as usize].push((key, json));
        }
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let column = partial.first().ok_or_else(|| bad_partial(AggFunc::JsonObjectAgg))?;
        for (row, group) in groups.iter().enumerate() {
            let DatumRef::Json(object) = column.get(row) else { continue };
            for (key, value) in object.members() {
                self.bytes += key.len() + value.as_bytes().len() + size_of::<(String, Json)>();
                self.groups[*group as usize].push((key.to_owned(), value.to_json()));
            }
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [column] = out else { return Err(bad_partial(AggFunc::JsonObjectAgg)) };
        self.write(group, column);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.write(group, out);
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Vec<(String, Json)>>() + self.bytes
    }
}
