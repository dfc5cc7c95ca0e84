//! `SHOW`, `DESCRIBE`.
//!
//! Each `SHOW` makes its rows here; `LIKE` filters the first column, `WHERE` runs as a
//! query over the rows, so that it may be any expression.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_parser::ast::{
    Describe, ObjectName, Show, ShowFilter, ShowKind, ShowLimit, VariableScope,
};
use cairn_planner::Catalog;
use cairn_planner::OutputColumn;
use cairn_planner::catalog::TableInfo;
use cairn_types::{Datum, FieldType, TimeStamp, Warning};

use crate::catalog::SchemaSnapshot;
use crate::error::{Result, SqlError};
use crate::infoschema::{self, rows as mem_rows};
use crate::pattern;
use crate::regions;
use crate::session::{Session, is_error, unknown_database, unknown_table};
use crate::sink::ResultSink;
use crate::statistics::{self, shown::Shown};
use crate::table_locks::Scope as LockScope;
use crate::variables::{DEFINITIONS, Scope};

/// A result made in memory.
struct Made {
    columns: Vec<(String, FieldType)>,
    rows: Vec<Vec<Datum>>,
}

fn made(columns: &[&str], rows: Vec<Vec<Datum>>) -> Made {
    let columns = columns.iter().map(|column| {
        let (name, ty) = column.split_once(':').unwrap_or((column, "s"));
        let ty = match ty {
            "i" => FieldType::bigint(),
            "u" => FieldType::bigint_unsigned(),
            "f" => FieldType::double(),
            "d" => FieldType::datetime(0),
            "t" => FieldType::longtext(),
            _ => FieldType::varchar(256),
        };
        (name.to_owned(), ty)
    });
    Made { columns: columns.collect(), rows }
}

fn text(value: impl Into<String>) -> Datum {
    Datum::text(value)
}

fn definitions(made: &Made) -> Vec<OutputColumn> {
    let columns = made.columns.iter();
    columns.map(|(name, ty)| OutputColumn::computed(name, ty.clone())).collect()
}

/// Result columns of a `SHOW`, for prepared statements.
pub fn columns(session: &mut Session, show: &Show) -> Result<Vec<OutputColumn>> {
    Ok(definitions(&make(session, &show.what)?))
}

/// Runs a `SHOW`.
pub async fn run(session: &mut Session, show: &Show, sink: &mut dyn ResultSink) -> Result<()> {
    let mut made = match &show.what {
        ShowKind::Regions { table, partitions, index } => {
            table_regions(session, table, partitions, index.as_deref()).await?
        }
        ShowKind::MasterStatus => {
            let position = match session.transaction.start_ts() {
                TimeStamp::ZERO => session.domain.now_ts().await?,
                start_ts => start_ts,
            };
            binary_log_status(Some(position))
        }
        ShowKind::Index { table } => {
            let (_, info) = find_table(session, table)?;
            session.domain.statistics.load(&session.domain, info.id).await?;
            indexes(session, table)?
        }
        what => match Shown::of(what) {
            Some(shown) => made(shown.columns(), statistics::shown::rows(session, shown).await?),
            None => make(session, what)?,
        },
    };
    match &show.filter {
        None => {}
        Some(ShowFilter::Like(pattern)) => {
            made.rows.retain(|row| {
                let name = row.first().and_then(Datum::as_bytes).unwrap_or_default();
                pattern::matches(pattern, &String::from_utf8_lossy(name))
            });
        }
        Some(ShowFilter::Where(condition)) => made = filter(session, made, condition).await?,
    }
    send(session, made, sink).await
}

async fn send(session: &mut Session, made: Made, sink: &mut dyn ResultSink) -> Result<()> {
    sink.begin_rows(definitions(&made).into()).await?;
    for row in &made.rows {
        sink.row(row).await?;
    }
    session.found_rows = made.rows.len() as u64;
    session.row_count = -1;
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// `WHERE`: a query over the rows as a virtual table of this statement alone.
async fn filter(
    session: &mut Session,
    made: Made,
    condition: &cairn_parser::ast::Expr,
) -> Result<Made> {
    let table = infoschema::virtual_table(i64::MIN, "show", &made.columns);
    let schema = session.schema();
    let mut eval = session.eval_context();
    let plan = session.with_plan_context(&schema, &mut eval, &[], |context| {
        infoschema::plan_filter(table, condition, context)
    });
    let plan = Arc::new(plan?);
    session.given_rows = Some(Arc::new(made.rows));
    let mut sink = crate::sink::CollectSink::default();
    let outcome = crate::execution::run_query(session, &plan, &[], &mut sink).await;
    session.given_rows = None;
    outcome?;
    Ok(Made { columns: made.columns, rows: sink.rows })
}

fn make(session: &mut Session, what: &ShowKind) -> Result<Made> {
    let schema = session.schema();
    Ok(match what {
        ShowKind::Databases => {
            let databases = schema.databases();
            let rows = databases.iter().map(|database| vec![text(&database.name)]);
            made(&["Database"], rows.collect())
        }
        ShowKind::Tables { full, database } => tables(session, *full, database.as_deref())?,
        ShowKind::TableStatus { database } => table_status(session, database.as_deref())?,
        ShowKind::OpenTables { database } => open_tables(&schema, database.as_deref()),
        ShowKind::Columns { full, table, .. } => show_columns(session, table, *full, None)?,
        ShowKind::Index { table } => indexes(session, table)?,
        ShowKind::CreateTable(name) => {
            let (_, table) = find_table(session, name)?;
            let next_id = table.auto_increment_start;
            let create = crate::ddl::create_sql::create_table(&table, next_id);
            made(&["Table", "Create Table:t"], vec![vec![text(&table.name), text(create)]])
        }
        ShowKind::CreateDatabase { name, if_not_exists } => {
            let database = schema.database(name).ok_or_else(|| unknown_database(name))?;
            let create = crate::ddl::create_sql::create_database(&database, *if_not_exists);
            made(&["Database", "Create Database:t"], vec![vec![text(&database.name), text(create)]])
        }
        ShowKind::Variables(scope) => variables(session, *scope),
        ShowKind::Status(_) => status(session),
        ShowKind::Warnings(limit) => warnings(session, limit, |_| true),
        ShowKind::Errors(limit) => warnings(session, limit, is_error),
        ShowKind::CountWarnings => made(
            &["@@session.warning_count:i"],
            vec![vec![Datum::Int(session.diagnostics.total as i64)]],
        ),
        ShowKind::CountErrors => {
            let errors = session.diagnostics.list.iter().filter(|entry| is_error(entry)).count();
            made(&["@@session.error_count:i"], vec![vec![Datum::Int(errors as i64)]])
        }
        ShowKind::ProcessList { .. } => made(
            &["Id:u", "User", "Host", "db", "Command", "Time:i", "State", "Info:t"],
            mem_rows::of_table(&session.domain, &schema, "information_schema", "PROCESSLIST"),
        ),
        ShowKind::Engines => made(
            &["Engine", "Support", "Comment", "Transactions", "XA", "Savepoints"],
            mem_rows::of_table(&session.domain, &schema, "information_schema", "ENGINES"),
        ),
        ShowKind::Charset => {
            let rows = mem_rows::of_table(
                &session.domain,
                &schema,
                "information_schema",
                "CHARACTER_SETS",
            );
            let reorder = |row: Vec<Datum>| {
                vec![row[0].clone(), row[2].clone(), row[1].clone(), row[3].clone()]
            };
            made(
                &["Charset", "Description", "Default collation", "Maxlen:i"],
                rows.into_iter().map(reorder).collect(),
            )
        }
        ShowKind::Collation => made(
            &["Collation", "Charset", "Id:u", "Default", "Compiled", "Sortlen:i", "Pad_attribute"],
            mem_rows::of_table(&session.domain, &schema, "information_schema", "COLLATIONS"),
        ),
        ShowKind::Grants(user) => {
            let user = user.as_ref().map_or_else(
                || session.current_user().to_owned(),
                |user| format!("{}@{}", user.user, user.host),
            );
            let (name, host) = user.split_once('@').unwrap_or((&user, "%"));
            let grant =
                format!("GRANT ALL PRIVILEGES ON *.* TO `{name}`@`{host}` WITH GRANT OPTION");
            made(&[&format!("Grants for {user}")], vec![vec![text(grant)]])
        }
        ShowKind::CreateUser(_) => return Err(SqlError::not_supported("SHOW CREATE USER")),
        ShowKind::Privileges => made(&["Privilege", "Context", "Comment"], vec![]),
        ShowKind::Plugins => made(&["Name", "Status", "Type", "Library", "License"], vec![]),
        ShowKind::Triggers { .. } => made(
            &[
                "Trigger",
                "Event",
                "Table",
                "Statement:t",
                "Timing",
                "Created:d",
                "sql_mode",
                "Definer",
                "character_set_client",
                "collation_connection",
                "Database Collation",
            ],
            vec![],
        ),
        ShowKind::Events { .. } => made(
            &[
                "Db",
                "Name",
                "Definer",
                "Time zone",
                "Type",
                "Execute at:d",
                "Interval value",
                "Interval field",
                "Starts:d",
                "Ends:d",
                "Status",
                "Originator:i",
                "character_set_client",
                "collation_connection",
                "Database Collation",
            ],
            vec![],
        ),
        ShowKind::ProcedureStatus | ShowKind::FunctionStatus => made(
            &[
                "Db",
                "Name",
                "Type",
                "Definer",
                "Modified:d",
                "Created:d",
                "Security_type",
                "Comment:t",
                "character_set_client",
                "collation_connection",
                "Database Collation",
            ],
            vec![],
        ),
        ShowKind::MasterStatus => binary_log_status(None),
        ShowKind::BinaryLogs => made(&["Log_name", "File_size:u", "Encrypted"], vec![]),
        ShowKind::ReplicaStatus => made(&["Replica_IO_State"], vec![]),
        ShowKind::Profiles => made(&["Query_ID:i", "Duration", "Query:t"], vec![]),
        ShowKind::Profile => made(&["Status", "Duration"], vec![]),
        ShowKind::EngineStatus(_) => made(&["Type", "Name", "Status:t"], vec![]),
        ShowKind::CreateView(_) => return Err(SqlError::not_supported("views")),
        ShowKind::CreateRoutine { .. } => return Err(SqlError::not_supported("stored routines")),
        ShowKind::Regions { .. } => made(regions::shown::COLUMNS, vec![]),
        ShowKind::Other(words) => match Shown::of(what) {
            Some(shown) => made(shown.columns(), vec![]),
            None => return Err(SqlError::not_supported(&format!("SHOW {words}"))),
        },
    })
}

/// As TiDB tells it: what dump tools note as the dump's position is the timestamp that it reads at.
fn binary_log_status(position: Option<TimeStamp>) -> Made {
    let row = |position: TimeStamp| {
        vec![text("tidb-binlog"), Datum::UInt(position.0), text(""), text(""), text("")]
    };
    made(
        &["File", "Position:u", "Binlog_Do_DB", "Binlog_Ignore_DB", "Executed_Gtid_Set"],
        position.map(row).into_iter().collect(),
    )
}

/// The tables that `LOCK TABLES` of any session in the cluster names.
fn open_tables(schema: &SchemaSnapshot, database: Option<&str>) -> Made {
    let mut in_use: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for one in schema.locks().entries() {
        let LockScope::Tables(tables) = &one.entry.scope else { continue };
        for table in tables {
            *in_use.entry((&table.database, &table.table)).or_default() += 1;
        }
    }
    let of_database = |name: &str| database.is_none_or(|wanted| wanted.eq_ignore_ascii_case(name));
    let rows = in_use.into_iter().filter(|((name, _), _)| of_database(name));
    let row = |((database, table), count)| {
        vec![text(database), text(table), Datum::Int(count), Datum::Int(0)]
    };
    made(&["Database", "Table", "In_use:i", "Name_locked:i"], rows.map(row).collect())
}

/// A table by name, with its database's name.
pub(crate) fn find_table(session: &Session, name: &ObjectName) -> Result<(String, Arc<TableInfo>)> {
    let database = session.database_or_current(name.schema.as_deref())?;
    let schema = session.schema();
    let table = schema.table(database, &name.name);
    let table = table.ok_or_else(|| unknown_table(database, &name.name))?;
    Ok((database.to_owned(), table))
}

fn database_of<'a>(session: &'a Session, database: Option<&'a str>) -> Result<&'a str> {
    let name = session.database_or_current(database)?;
    if session.schema().database(name).is_none() {
        return Err(unknown_database(name));
    }
    Ok(name)
}

fn tables(session: &Session, full: bool, database: Option<&str>) -> Result<Made> {
    let name = database_of(session, database)?.to_owned();
    let rows = session.schema().tables(&name).into_iter().map(|table| {
        let kind = if table.is_virtual { "SYSTEM VIEW" } else { "BASE TABLE" };
        let mut row = vec![text(&table.name)];
        if full {
            row.push(text(kind));
        }
        row
    });
    let heading = format!("Tables_in_{name}");
    let columns: &[&str] = if full { &[&heading, "Table_type"] } else { &[&heading] };
    Ok(made(columns, rows.collect()))
}

fn table_status(session: &Session, database: Option<&str>) -> Result<Made> {
    let name = database_of(session, database)?;
    let schema = session.schema();
    let rows = mem_rows::of_table(&session.domain, &schema, "information_schema", "TABLES");
    let of_database = |row: &Vec<Datum>| {
        row[1].as_bytes().is_some_and(|database| database.eq_ignore_ascii_case(name.as_bytes()))
    };
    let pick = |row: Vec<Datum>| {
        let order = [2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];
        order.iter().map(|at| row[*at].clone()).collect()
    };
    Ok(made(
        &[
            "Name",
            "Engine",
            "Version:i",
            "Row_format",
            "Rows:u",
            "Avg_row_length:u",
            "Data_length:u",
            "Max_data_length:u",
            "Index_length:u",
            "Data_free:u",
            "Auto_increment:u",
            "Create_time:d",
            "Update_time:d",
            "Check_time:d",
            "Collation",
            "Checksum:i",
            "Create_options:t",
            "Comment:t",
        ],
        rows.into_iter().filter(of_database).map(pick).collect(),
    ))
}

fn show_columns(
    session: &Session,
    name: &ObjectName,
    full: bool,
    only: Option<&str>,
) -> Result<Made> {
    let (_, table) = find_table(session, name)?;
    let wanted = |column: &str| {
        only.is_none_or(|only| column.eq_ignore_ascii_case(only) || pattern::matches(only, column))
    };
    let rows = table.public_columns().filter(|(_, column)| wanted(&column.name)).map(
        |(offset, column)| {
            let ty = &column.ty;
            let null = text(if ty.not_null { "NO" } else { "YES" });
            let key = text(mem_rows::column_key(&table, offset));
            let default = mem_rows::column_default(column).map_or(Datum::Null, text);
            let extra = text(mem_rows::column_extra(column));
            let (name, ty_text) = (text(&column.name), text(ty.to_sql()));
            if !full {
                return vec![name, ty_text, null, key, default, extra];
            }
            let is_text = (ty.is_string() && !ty.is_binary_string()) || ty.is_enum_or_set();
            let collation = if is_text { text(ty.collation.name()) } else { Datum::Null };
            let privileges = text("select,insert,update,references");
            vec![
                name,
                ty_text,
                collation,
                null,
                key,
                default,
                extra,
                privileges,
                text(&column.comment),
            ]
        },
    );
    let columns: &[&str] = if full {
        &[
            "Field",
            "Type:t",
            "Collation",
            "Null",
            "Key",
            "Default:t",
            "Extra",
            "Privileges",
            "Comment:t",
        ]
    } else {
        &["Field", "Type:t", "Null", "Key", "Default:t", "Extra"]
    };
    Ok(made(columns, rows.collect()))
}

/// Result columns of `DESCRIBE`, for prepared statements.
pub fn describe_columns() -> Vec<OutputColumn> {
    definitions(&made(&["Field", "Type:t", "Null", "Key", "Default:t", "Extra"], vec![]))
}

/// `DESCRIBE table [column]`.
pub async fn describe(
    session: &mut Session,
    describe: &Describe,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let made = show_columns(session, &describe.table, false, describe.column.as_deref())?;
    send(session, made, sink).await
}

fn indexes(session: &Session, name: &ObjectName) -> Result<Made> {
    let (database, table) = find_table(session, name)?;
    let schema = session.schema();
    let rows = mem_rows::of_table(&session.domain, &schema, "information_schema", "STATISTICS");
    let same = |value: &Datum, name: &str| {
        value.as_bytes().is_some_and(|value| value.eq_ignore_ascii_case(name.as_bytes()))
    };
    let pick = |row: Vec<Datum>| {
        let order = [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17];
        order.iter().map(|at| row[*at].clone()).collect()
    };
    let of_table = |row: &Vec<Datum>| same(&row[1], &database) && same(&row[2], &table.name);
    Ok(made(
        &[
            "Table",
            "Non_unique:i",
            "Key_name",
            "Seq_in_index:u",
            "Column_name",
            "Collation",
            "Cardinality:i",
            "Sub_part:i",
            "Packed",
            "Null",
            "Index_type",
            "Comment:t",
            "Index_comment:t",
            "Visible",
            "Expression:t",
        ],
        rows.into_iter().filter(of_table).map(pick).collect(),
    ))
}

fn variables(session: &Session, scope: VariableScope) -> Made {
    let global = scope == VariableScope::Global;
    let global_values = session.domain.variables.current();
    let values = if global { &global_values } else { session.variables.values() };
    let shown =
        DEFINITIONS.iter().filter(|definition| !global || definition.scope != Scope::Session);
    let rows = shown.map(|definition| {
        let value = values.get(definition.name).map_or(definition.default, String::as_str);
        vec![text(definition.name), text(value)]
    });
    made(&["Variable_name", "Value:t"], rows.collect())
}

fn status(session: &Session) -> Made {
    let domain = &session.domain;
    let rows = [
        ("Connections", domain.processes.open_count() as u64),
        ("Questions", domain.statement_count()),
        ("Slow_queries", domain.slow_log.count()),
        ("Threads_connected", domain.processes.open_count() as u64),
        ("Uptime", domain.uptime_s()),
    ];
    let mut rows: Vec<Vec<Datum>> =
        rows.iter().map(|(name, value)| vec![text(*name), text(value.to_string())]).collect();
    rows.push(vec![text("Ssl_cipher"), text("")]);
    made(&["Variable_name", "Value:t"], rows)
}

fn warnings(session: &Session, limit: &ShowLimit, wanted: impl Fn(&Warning) -> bool) -> Made {
    let count =
        limit.count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let offset = usize::try_from(limit.offset).unwrap_or(usize::MAX);
    let list = session.diagnostics.list.iter().filter(|entry| wanted(entry));
    let rows = list.skip(offset).take(count).map(|entry| {
        vec![text(entry.level.as_str()), Datum::Int(i64::from(entry.code)), text(&entry.message)]
    });
    made(&["Level", "Code:i", "Message:t"], rows.collect())
}

/// `SHOW TABLE t [INDEX i] REGIONS`.
async fn table_regions(
    session: &Session,
    name: &ObjectName,
    partitions: &[String],
    index: Option<&str>,
) -> Result<Made> {
    let (_, table) = find_table(session, name)?;
    let index = regions::target(&table, partitions, index)?;
    let rows = regions::shown::rows(&session.domain.pd, &table, index).await?;
    Ok(made(regions::shown::COLUMNS, rows))
}
