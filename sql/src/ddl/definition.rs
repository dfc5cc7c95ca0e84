//! Column and key definitions: from the syntax tree to the stored schema.
//!
//! Source: MySQL 8.0 manual, 13.1.20 "CREATE TABLE Statement"; error numbers as MySQL
//! gives them for the same mistakes.

use cairn_parser::ast::{
    self, ColumnAttribute, ColumnDef, DataType, Expr, IndexKind, IntegerSize, KeyTarget, Literal,
    LobSize, TableConstraint, UnaryOperator,
};
use cairn_planner::catalog::{
    CheckInfo, ColumnDefault, ColumnInfo, ForeignKeyInfo, GeneratedColumn, IndexColumn, IndexInfo,
    PRIMARY_NAME, SchemaState, TableInfo,
};
use cairn_types::collation::Charset;
use cairn_types::{Collation, FieldType, IndexId, TypeCode, errno};

use crate::error::{Result, SqlError};

/// Longest identifier, in characters.
const IDENTIFIER_CHARS_MAX: usize = 64;
/// Longest key, in bytes (InnoDB's limit, which applications know).
const KEY_BYTES_MAX: u32 = 3_072;
/// Most columns of a table (MySQL's hard limit).
const COLUMNS_MAX: usize = 4_096;
/// Most parts of an index.
const KEY_PARTS_MAX: usize = 16;

/// Error 1071: `Specified key was too long`.
const ER_TOO_LONG_KEY: u16 = 1071;
/// Error 1072: `Key column '%s' doesn't exist in table`.
const ER_KEY_COLUMN_DOES_NOT_EXIST: u16 = 1072;
/// Error 1170: `BLOB/TEXT column '%s' used in key specification without a key length`.
const ER_BLOB_KEY_WITHOUT_LENGTH: u16 = 1170;

/// Resolves a character set and a collation to one collation.
pub fn collation_of(
    charset: Option<&str>,
    collation: Option<&str>,
    default: Collation,
) -> Result<Collation> {
    let charset = match charset {
        None => None,
        Some(name) => Some(Charset::from_name(name).ok_or_else(|| {
            SqlError::new(
                errno::ER_UNKNOWN_CHARACTER_SET,
                format!("Unknown character set: '{name}'"),
            )
        })?),
    };
    let Some(name) = collation else {
        return Ok(charset.map_or(default, Charset::default_collation));
    };
    let collation = Collation::from_name(name).ok_or_else(|| {
        SqlError::new(errno::ER_UNKNOWN_COLLATION, format!("Unknown collation: '{name}'"))
    })?;
    match charset {
        Some(charset) if charset != collation.charset() => Err(SqlError::new(
            1253,
            format!("COLLATION '{name}' is not valid for CHARACTER SET '{}'", charset.name()),
        )),
        _ => Ok(collation),
    }
}

fn column_collation(charset: &ast::Charset, default: Collation) -> Result<Collation> {
    let collation =
        collation_of(charset.charset.as_deref(), charset.collation.as_deref(), default)?;
    Ok(if charset.binary { collation.charset().binary_collation() } else { collation })
}

/// Checks an identifier of a database, table, column or index.
pub fn check_identifier(name: &str) -> Result<()> {
    if name.chars().count() > IDENTIFIER_CHARS_MAX {
        return Err(SqlError::new(1059, format!("Identifier name '{name}' is too long")));
    }
    Ok(())
}

/// The field type of a declared type.
pub fn field_type(
    name: &str,
    data_type: &DataType,
    default_collation: Collation,
) -> Result<FieldType> {
    let text = |code: TypeCode, length: Option<u32>, charset: &ast::Charset| -> Result<FieldType> {
        let ty = FieldType::new(code).with_collation(column_collation(charset, default_collation)?);
        Ok(match length {
            Some(length) => ty.with_flen(length),
            None => ty,
        })
    };
    let number = |mut ty: FieldType, unsigned: bool, zerofill: bool| {
        if unsigned || zerofill {
            ty = ty.with_unsigned();
        }
        if zerofill {
            ty = ty.with_zerofill();
        }
        ty
    };
    let ty = match data_type {
        DataType::Bit(width) => {
            let width = width.unwrap_or(1);
            limit(name, "BIT", width, 1, 64)?;
            FieldType::bit(width)
        }
        DataType::Integer { size, width, unsigned, zerofill } => {
            let ty = FieldType::new(match size {
                IntegerSize::Tiny => TypeCode::TinyInt,
                IntegerSize::Small => TypeCode::SmallInt,
                IntegerSize::Medium => TypeCode::MediumInt,
                IntegerSize::Int => TypeCode::Int,
                IntegerSize::Big => TypeCode::BigInt,
            });
            // MySQL 8 forgets display widths, but for tinyint(1) and zerofill.
            let keep = *zerofill || (*size == IntegerSize::Tiny && *width == Some(1));
            let ty = match width {
                Some(width) if keep => ty.with_flen(*width),
                _ => ty,
            };
            number(ty, *unsigned, *zerofill)
        }
        DataType::Decimal { precision, scale, unsigned, zerofill } => {
            let (precision, scale) = (precision.unwrap_or(10), scale.unwrap_or(0));
            decimal_limits(name, precision, scale)?;
            number(FieldType::decimal(precision, scale as u8), *unsigned, *zerofill)
        }
        DataType::Float { digits, unsigned, zerofill } => {
            number(real(FieldType::float(), *digits), *unsigned, *zerofill)
        }
        DataType::Double { digits, unsigned, zerofill } => {
            number(real(FieldType::double(), *digits), *unsigned, *zerofill)
        }
        DataType::Date => FieldType::date(),
        DataType::Time(fsp) => FieldType::time(fsp_limit(name, *fsp)?),
        DataType::DateTime(fsp) => FieldType::datetime(fsp_limit(name, *fsp)?),
        DataType::Timestamp(fsp) => FieldType::timestamp(fsp_limit(name, *fsp)?),
        DataType::Year => FieldType::year(),
        DataType::Char { length, charset } => {
            let length = length.unwrap_or(1);
            limit(name, "CHAR", length, 0, 255)?;
            text(TypeCode::Char, Some(length), charset)?
        }
        DataType::VarChar { length, charset } => {
            let ty = text(TypeCode::VarChar, Some(*length), charset)?;
            let chars_max = 65_535 / ty.collation.charset().max_len();
            limit(name, "VARCHAR", *length, 0, chars_max)?;
            ty
        }
        DataType::Binary(length) => {
            let length = length.unwrap_or(1);
            limit(name, "BINARY", length, 0, 255)?;
            FieldType::binary(length)
        }
        DataType::VarBinary(length) => {
            limit(name, "VARBINARY", *length, 0, 65_535)?;
            FieldType::varbinary(*length)
        }
        DataType::Text { size, length, charset } => {
            let codes =
                [TypeCode::TinyText, TypeCode::Text, TypeCode::MediumText, TypeCode::LongText];
            text(codes[lob_size(*size, *length)], None, charset)?
        }
        DataType::Blob { size, length } => {
            let codes =
                [TypeCode::TinyBlob, TypeCode::Blob, TypeCode::MediumBlob, TypeCode::LongBlob];
            FieldType::new(codes[lob_size(*size, *length)])
        }
        DataType::Enum { values, charset } => {
            members(name, values)?;
            FieldType::enumeration(values.iter().map(String::as_str))
                .with_collation(column_collation(charset, default_collation)?)
        }
        DataType::Set { values, charset } => {
            members(name, values)?;
            if values.len() > 64 {
                return Err(SqlError::new(1097, "Too many strings for column and SET"));
            }
            FieldType::set(values.iter().map(String::as_str))
                .with_collation(column_collation(charset, default_collation)?)
        }
        DataType::Json => FieldType::json(),
        DataType::Vector(_) => return Err(SqlError::not_supported("VECTOR")),
        DataType::Geometry(name) => return Err(SqlError::not_supported(name)),
    };
    Ok(ty)
}

fn real(ty: FieldType, digits: Option<(u32, u32)>) -> FieldType {
    match digits {
        Some((width, decimals)) => ty.with_flen(width).with_decimals(decimals as u8),
        None => ty,
    }
}

/// `TEXT(n)` is the smallest type that holds n bytes.
fn lob_size(size: LobSize, length: Option<u32>) -> usize {
    match (size, length) {
        (LobSize::Tiny, _) => 0,
        (LobSize::Regular, Some(0..=255)) => 0,
        (LobSize::Regular, None | Some(256..=65_535)) => 1,
        (LobSize::Regular, Some(65_536..=16_777_215)) => 2,
        (LobSize::Medium, _) => 2,
        (LobSize::Regular | LobSize::Long, _) => 3,
    }
}

fn limit(column: &str, what: &str, value: u32, low: u32, high: u32) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(SqlError::new(
        1074,
        format!(
            "Column length too big for column '{column}' (max = {high}); use BLOB or TEXT instead ({what})"
        ),
    ))
}

fn fsp_limit(column: &str, fsp: u8) -> Result<u8> {
    if fsp <= 6 {
        return Ok(fsp);
    }
    Err(SqlError::new(
        1426,
        format!("Too-big precision {fsp} specified for '{column}'. Maximum is 6."),
    ))
}

fn decimal_limits(column: &str, precision: u32, scale: u32) -> Result<()> {
    if precision > 65 {
        return Err(SqlError::new(
            1426,
            format!("Too-big precision {precision} specified for '{column}'. Maximum is 65."),
        ));
    }
    if scale > 30 {
        return Err(SqlError::new(
            1425,
            format!("Too big scale {scale} specified for column '{column}'. Maximum is 30."),
        ));
    }
    if scale > precision {
        return Err(SqlError::new(
            1427,
            format!(
                "For float(M,D), double(M,D) or decimal(M,D), M must be >= D (column '{column}')."
            ),
        ));
    }
    Ok(())
}

fn members(column: &str, values: &[String]) -> Result<()> {
    for (at, value) in values.iter().enumerate() {
        if values[..at].iter().any(|other| other.eq_ignore_ascii_case(value)) {
            return Err(SqlError::new(
                1291,
                format!("Column '{column}' has duplicated value '{value}' in ENUM or SET"),
            ));
        }
    }
    Ok(())
}

/// What a column's definition says beside the column itself.
#[derive(Clone, Debug, Default)]
pub struct ColumnKeys {
    /// `PRIMARY KEY`; whether it says `CLUSTERED`.
    pub primary: Option<Option<bool>>,
    /// `UNIQUE`.
    pub unique: bool,
    /// `CHECK`s of the column.
    pub checks: Vec<CheckInfo>,
}

/// A column from its definition; the id is given later.
pub fn column(
    definition: &ColumnDef,
    default_collation: Collation,
) -> Result<(ColumnInfo, ColumnKeys)> {
    check_identifier(&definition.name)?;
    let ty = field_type(&definition.name, &definition.data_type, default_collation)?;
    let mut column = ColumnInfo::new(0, definition.name.clone(), ty);
    let mut keys = ColumnKeys::default();
    for attribute in &definition.attributes {
        match attribute {
            ColumnAttribute::Null => column.ty.not_null = false,
            ColumnAttribute::NotNull => column.ty.not_null = true,
            ColumnAttribute::Default { expr, parenthesised } => {
                column.default = Some(default_value(&column, expr, *parenthesised)?);
            }
            ColumnAttribute::OnUpdate(expr) => {
                column.on_update_now = Some(current_timestamp_fsp(expr).ok_or_else(|| {
                    invalid_default(&column.name, "Invalid ON UPDATE clause for")
                })?);
            }
            ColumnAttribute::AutoIncrement | ColumnAttribute::AutoRandom { .. } => {
                if !column.ty.is_integer() && !column.ty.is_real() {
                    return Err(SqlError::new(
                        1063,
                        format!("Incorrect column specifier for column '{}'", column.name),
                    ));
                }
                column.auto_increment = true;
                column.ty.not_null = true;
            }
            ColumnAttribute::Unique => keys.unique = true,
            ColumnAttribute::PrimaryKey { clustered } => keys.primary = Some(*clustered),
            ColumnAttribute::Comment(text) => column.comment = text.clone(),
            ColumnAttribute::Generated { expr, stored, .. } => {
                column.generated =
                    Some(GeneratedColumn { expr: expr.to_string(), stored: *stored });
            }
            ColumnAttribute::Check(check) => keys.checks.push(check_info(check)),
            ColumnAttribute::Visible(visible) => column.hidden = !visible,
            // The collation is in the type; column-level REFERENCES mean nothing in MySQL.
            ColumnAttribute::Collate(_)
            | ColumnAttribute::References(_)
            | ColumnAttribute::Other(..) => {}
        }
    }
    if column.ty.not_null && matches!(column.default, Some(ColumnDefault::Null)) {
        return Err(invalid_default(&column.name, "Invalid default value for"));
    }
    Ok((column, keys))
}

fn check_info(check: &ast::CheckConstraint) -> CheckInfo {
    CheckInfo {
        name: check.name.clone().unwrap_or_default(),
        expr: check.expr.to_string(),
        enforced: check.enforced,
    }
}

fn invalid_default(column: &str, what: &str) -> SqlError {
    SqlError::new(1067, format!("{what} '{column}'"))
}

/// Fractional digits of `CURRENT_TIMESTAMP[(n)]` and its synonyms.
fn current_timestamp_fsp(expr: &Expr) -> Option<u8> {
    let Expr::Function(call) = expr else { return None };
    if !matches!(call.name.as_str(), "current_timestamp" | "now" | "localtime" | "localtimestamp") {
        return None;
    }
    match call.args.as_slice() {
        [] => Some(0),
        [Expr::Literal(Literal::Integer(digits))] => digits.parse().ok().filter(|fsp| *fsp <= 6),
        _ => None,
    }
}

/// The stored default of a column.
pub fn default_value(
    column: &ColumnInfo,
    expr: &Expr,
    parenthesised: bool,
) -> Result<ColumnDefault> {
    if let Some(fsp) = current_timestamp_fsp(expr)
        && matches!(column.ty.code, TypeCode::DateTime | TypeCode::Timestamp)
    {
        return Ok(ColumnDefault::CurrentTimestamp { fsp });
    }
    if parenthesised {
        return Ok(ColumnDefault::Expr(expr.to_string()));
    }
    let invalid = || invalid_default(&column.name, "Invalid default value for");
    if column.ty.is_blob() || column.ty.code == TypeCode::Json {
        if matches!(expr, Expr::Literal(Literal::Null)) {
            return Ok(ColumnDefault::Null);
        }
        return Err(SqlError::new(
            1101,
            format!(
                "BLOB, TEXT, GEOMETRY or JSON column '{}' can't have a default value",
                column.name
            ),
        ));
    }
    let default = match expr {
        Expr::Literal(literal) => literal_default(literal),
        Expr::Unary { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Literal(
                Literal::Integer(text) | Literal::Decimal(text) | Literal::Float(text),
            ) => ColumnDefault::Literal(format!("-{text}")),
            _ => return Err(invalid()),
        },
        Expr::Unary { op: UnaryOperator::Plus, expr } => {
            return default_value(column, expr, parenthesised);
        }
        _ => return Err(invalid()),
    };
    let text = match &default {
        ColumnDefault::Literal(text) => Some(text.as_bytes().to_vec()),
        ColumnDefault::Bytes(bytes) => Some(bytes.clone()),
        _ => None,
    };
    if let Some(text) = text {
        // The default must be a value of the column, strictly.
        let mut context = cairn_types::CastContext::assign_strict();
        let from = FieldType::string();
        let value = cairn_types::Datum::Bytes(text);
        cairn_types::cast_datum(&value, &from, &column.ty, &mut context).map_err(|_| invalid())?;
    }
    Ok(default)
}

fn literal_default(literal: &Literal) -> ColumnDefault {
    match literal {
        Literal::Null => ColumnDefault::Null,
        Literal::Boolean(value) => ColumnDefault::Literal(u8::from(*value).to_string()),
        Literal::Integer(text)
        | Literal::Decimal(text)
        | Literal::Float(text)
        | Literal::Date(text)
        | Literal::Time(text)
        | Literal::Timestamp(text) => ColumnDefault::Literal(text.clone()),
        Literal::String { value, .. } => ColumnDefault::Literal(value.clone()),
        Literal::Hex { bytes, .. } | Literal::Bit { bytes, .. } => {
            ColumnDefault::Bytes(bytes.clone())
        }
    }
}

/// Adds a column at the end with the next id.
pub fn add_column(table: &mut TableInfo, mut column: ColumnInfo) -> Result<usize> {
    if table.columns.iter().any(|other| other.name.eq_ignore_ascii_case(&column.name)) {
        return Err(SqlError::new(
            errno::ER_DUP_FIELDNAME,
            format!("Duplicate column name '{}'", column.name),
        ));
    }
    if table.columns.len() == COLUMNS_MAX {
        return Err(SqlError::new(1117, "Too many columns"));
    }
    table.max_column_id += 1;
    column.id = cairn_types::ColumnId(table.max_column_id);
    table.columns.push(column);
    Ok(table.columns.len() - 1)
}

/// A key over columns of the table, with the next id and a name of its own.
pub fn index(table: &mut TableInfo, definition: &ast::IndexDef) -> Result<IndexInfo> {
    let primary = match definition.kind {
        IndexKind::Primary => true,
        IndexKind::Unique | IndexKind::Plain => false,
        IndexKind::FullText => return Err(SqlError::not_supported("FULLTEXT INDEX")),
        IndexKind::Spatial => return Err(SqlError::not_supported("SPATIAL INDEX")),
    };
    if primary && table.primary_key().is_some() {
        return Err(SqlError::new(errno::ER_MULTIPLE_PRI_KEY, "Multiple primary key defined"));
    }
    if definition.parts.len() > KEY_PARTS_MAX {
        return Err(SqlError::new(1070, "Too many key parts specified; max 16 parts allowed"));
    }
    let mut columns: Vec<IndexColumn> = Vec::with_capacity(definition.parts.len());
    let mut key_bytes = 0;
    for part in &definition.parts {
        let (column, bytes) = index_column(table, &part.target)?;
        if columns.iter().any(|other| other.offset == column.offset) {
            let name = &table.columns[column.offset].name;
            return Err(SqlError::new(
                errno::ER_DUP_FIELDNAME,
                format!("Duplicate column name '{name}'"),
            ));
        }
        key_bytes += bytes;
        columns.push(column);
    }
    if key_bytes > KEY_BYTES_MAX {
        return Err(SqlError::new(
            ER_TOO_LONG_KEY,
            format!("Specified key was too long; max key length is {KEY_BYTES_MAX} bytes"),
        ));
    }
    if primary {
        for part in &columns {
            table.columns[part.offset].ty.not_null = true;
        }
    }
    let name = index_name(table, definition, &columns)?;
    table.max_index_id += 1;
    Ok(IndexInfo {
        id: IndexId(table.max_index_id),
        name,
        columns,
        unique: primary || definition.kind == IndexKind::Unique,
        primary,
        invisible: definition.options.invisible,
        comment: definition.options.comment.clone().unwrap_or_default(),
        state: SchemaState::Public,
    })
}

fn index_column(table: &TableInfo, target: &KeyTarget) -> Result<(IndexColumn, u32)> {
    let KeyTarget::Column { name, prefix_length } = target else {
        return Err(SqlError::not_supported("an index over an expression"));
    };
    let (offset, column) = table.find_column(name).ok_or_else(|| {
        SqlError::new(
            ER_KEY_COLUMN_DOES_NOT_EXIST,
            format!("Key column '{name}' doesn't exist in table"),
        )
    })?;
    let ty = &column.ty;
    if ty.code == TypeCode::Json {
        return Err(SqlError::new(
            3152,
            format!(
                "JSON column '{name}' supports indexing only via generated columns on a specified JSON path."
            ),
        ));
    }
    if ty.is_blob() && prefix_length.is_none() {
        return Err(SqlError::new(
            ER_BLOB_KEY_WITHOUT_LENGTH,
            format!("BLOB/TEXT column '{name}' used in key specification without a key length"),
        ));
    }
    let char_bytes = if ty.is_string() { ty.collation.charset().max_len() } else { 1 };
    // A prefix as long as the column is no prefix.
    let prefix_length = prefix_length.filter(|length| ty.flen.is_none_or(|whole| *length < whole));
    if prefix_length.is_some() && !ty.is_string() {
        return Err(SqlError::new(
            1089,
            "Incorrect prefix key; the used key part isn't a string, the used length is longer \
             than the key part, or the storage engine doesn't support unique prefix keys",
        ));
    }
    let bytes = if ty.is_string() {
        prefix_length.or(ty.flen).unwrap_or(1).saturating_mul(char_bytes)
    } else {
        8
    };
    Ok((IndexColumn { offset, prefix_length }, bytes))
}

/// The name written, or the first column's with a number when that is taken.
fn index_name(
    table: &TableInfo,
    definition: &ast::IndexDef,
    columns: &[IndexColumn],
) -> Result<String> {
    if definition.kind == IndexKind::Primary {
        return Ok(PRIMARY_NAME.to_owned());
    }
    if let Some(name) = definition.name.as_ref().filter(|name| !name.is_empty()) {
        check_identifier(name)?;
        if name.eq_ignore_ascii_case(PRIMARY_NAME) {
            return Err(SqlError::new(1280, format!("Incorrect index name '{name}'")));
        }
        if table.find_index(name).is_some() {
            return Err(SqlError::new(
                errno::ER_DUP_KEYNAME,
                format!("Duplicate key name '{name}'"),
            ));
        }
        return Ok(name.clone());
    }
    let first = &table.columns[columns[0].offset].name;
    let numbered = (2..).map(|number| format!("{first}_{number}"));
    let mut names = std::iter::once(first.clone()).chain(numbered);
    let free = names
        .find(|name| !name.eq_ignore_ascii_case(PRIMARY_NAME) && table.find_index(name).is_none());
    Ok(free.expect("the numbered names have no end"))
}

/// Adds a key or check to a table that has no rows yet (or none that matter: foreign keys
/// and checks are metadata).
pub fn add_constraint(table: &mut TableInfo, constraint: &TableConstraint) -> Result<()> {
    match constraint {
        TableConstraint::Index(definition) => {
            let index = index(table, definition)?;
            table.indices.push(index);
        }
        TableConstraint::ForeignKey(key) => add_foreign_key(table, key)?,
        TableConstraint::Check(check) => add_check(table, check_info(check)),
    }
    Ok(())
}

/// Adds a check, named as MySQL names those without a name.
pub fn add_check(table: &mut TableInfo, mut check: CheckInfo) {
    if check.name.is_empty() {
        check.name = format!("{}_chk_{}", table.name, table.checks.len() + 1);
    }
    table.checks.push(check);
}

fn add_foreign_key(table: &mut TableInfo, key: &ast::ForeignKey) -> Result<()> {
    for name in &key.columns {
        if table.find_column(name).is_none() {
            return Err(SqlError::new(
                ER_KEY_COLUMN_DOES_NOT_EXIST,
                format!("Key column '{name}' doesn't exist in table"),
            ));
        }
    }
    let action = |action: Option<ast::ReferenceAction>| {
        match action {
            None => "",
            Some(ast::ReferenceAction::Restrict) => "RESTRICT",
            Some(ast::ReferenceAction::Cascade) => "CASCADE",
            Some(ast::ReferenceAction::SetNull) => "SET NULL",
            Some(ast::ReferenceAction::NoAction) => "NO ACTION",
            Some(ast::ReferenceAction::SetDefault) => "SET DEFAULT",
        }
        .to_owned()
    };
    let name = key
        .name
        .clone()
        .unwrap_or_else(|| format!("{}_ibfk_{}", table.name, table.foreign_keys.len() + 1));
    let reference = &key.reference;
    // MySQL makes an index for the referencing columns when none begins with them.
    let offsets: Vec<usize> = key
        .columns
        .iter()
        .filter_map(|name| table.find_column(name))
        .map(|found| found.0)
        .collect();
    let covered = table.indices.iter().any(|index| {
        index.columns.len() >= offsets.len()
            && index.columns.iter().zip(&offsets).all(|(part, offset)| part.offset == *offset)
    });
    if !covered {
        let parts = key.columns.iter().map(|name| ast::KeyPart {
            target: KeyTarget::Column { name: name.clone(), prefix_length: None },
            descending: false,
        });
        let definition = ast::IndexDef {
            name: key.name.clone(),
            kind: IndexKind::Plain,
            parts: parts.collect(),
            options: ast::IndexOptions::default(),
        };
        let index = index(table, &definition)?;
        table.indices.push(index);
    }
    table.foreign_keys.push(ForeignKeyInfo {
        name,
        columns: key.columns.clone(),
        ref_schema: reference.table.schema.clone(),
        ref_table: reference.table.name.clone(),
        ref_columns: reference.columns.clone(),
        on_delete: action(reference.on_delete),
        on_update: action(reference.on_update),
    });
    Ok(())
}

/// Decides how rows are stored: by an integer key, by a key of another shape, or by hidden
/// row ids. `clustered`: what the primary key's definition says; clustered unless it
/// says otherwise.
pub fn choose_handle(table: &mut TableInfo, clustered: Option<bool>) {
    let Some(key) = table.primary_key() else { return };
    if clustered == Some(false) {
        return;
    }
    let [part] = key.columns.as_slice() else {
        table.common_handle = key.columns.iter().all(|part| part.prefix_length.is_none());
        return;
    };
    let ty = &table.columns[part.offset].ty;
    // An unsigned bigint handle sorts as signed in the key: it gets a common handle.
    let unsigned_bigint = ty.code == TypeCode::BigInt && ty.unsigned;
    let is_handle = ty.is_integer() && !unsigned_bigint;
    let is_whole = part.prefix_length.is_none();
    table.pk_is_handle = is_handle;
    table.common_handle = !is_handle && is_whole;
}
