//! One version of the schema, immutable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cairn_planner::catalog::{Catalog, DatabaseInfo, TableInfo};
use cairn_types::{SchemaId, TableId};

use super::meta::StoredSchema;
use crate::table_locks::{LockRecord, TableLocks};

/// A database with its tables by lower-case name.
#[derive(Clone, Debug)]
struct Database {
    info: Arc<DatabaseInfo>,
    tables: BTreeMap<String, Arc<TableInfo>>,
}

/// All databases and tables, the virtual ones too.
#[derive(Debug, Default)]
struct Definitions {
    /// The schema version that changed something of them last.
    version: i64,
    is_in_flashback: bool,
    databases: BTreeMap<String, Database>,
    by_table_id: HashMap<TableId, (SchemaId, Arc<TableInfo>)>,
}

/// Definitions and table locks at one version.
#[derive(Clone, Debug, Default)]
pub struct SchemaSnapshot {
    version: i64,
    definitions: Arc<Definitions>,
    locks: Arc<TableLocks>,
}

impl SchemaSnapshot {
    /// Builds the look-ups; `virtual_databases` are those whose rows this tier makes.
    pub fn new(
        schema: StoredSchema,
        virtual_databases: &[(DatabaseInfo, Vec<Arc<TableInfo>>)],
    ) -> Self {
        let StoredSchema { version, locks, .. } = schema;
        let mut definitions = Definitions {
            version: if locks.version == version { locks.definitions } else { version },
            is_in_flashback: schema.flashback.is_some(),
            ..Definitions::default()
        };
        let mut names = HashMap::new();
        for info in schema.databases {
            let name = info.name.to_lowercase();
            names.insert(info.id, name.clone());
            let database = Database { info: Arc::new(info), tables: BTreeMap::new() };
            definitions.databases.insert(name, database);
        }
        for (schema_id, table) in schema.tables {
            let table = Arc::new(table);
            definitions.by_table_id.insert(table.id, (schema_id, Arc::clone(&table)));
            let database = names.get(&schema_id);
            let database = database.and_then(|name| definitions.databases.get_mut(name));
            if let Some(database) = database {
                database.tables.insert(table.name.to_lowercase(), table);
            }
        }
        for (info, tables) in virtual_databases {
            let name = info.name.to_lowercase();
            let by_name =
                tables.iter().map(|table| (table.name.to_lowercase(), Arc::clone(table))).collect();
            let database = Database { info: Arc::new(info.clone()), tables: by_name };
            definitions.databases.insert(name, database);
        }
        let snapshot = Self { version, definitions: Arc::new(definitions), locks: Arc::default() };
        snapshot.with_locks(version, locks)
    }

    /// The same definitions at a later version, which differs in its table locks alone.
    pub fn with_locks(&self, version: i64, locks: LockRecord) -> Self {
        let find = |database: &str, table: &str| self.table(database, table).map(|table| table.id);
        let locks = Arc::new(TableLocks::resolve(locks.entries, find));
        Self { version, definitions: Arc::clone(&self.definitions), locks }
    }

    /// The version that changed a definition last: what is planned for one with the same is planned
    /// for this one too.
    pub fn definitions_version(&self) -> i64 {
        self.definitions.version
    }

    /// Who has locked tables, or waits for that.
    pub fn locks(&self) -> &TableLocks {
        &self.locks
    }

    /// Whether the cluster is on its way to a state of the past: rows are of two times.
    pub fn is_in_flashback(&self) -> bool {
        self.definitions.is_in_flashback
    }

    /// A table by its id, with its database's.
    pub fn table_by_id(&self, id: TableId) -> Option<(SchemaId, Arc<TableInfo>)> {
        self.definitions.by_table_id.get(&id).cloned()
    }
}

impl Catalog for SchemaSnapshot {
    fn version(&self) -> i64 {
        self.version
    }

    fn database(&self, name: &str) -> Option<Arc<DatabaseInfo>> {
        let database = self
            .definitions
            .databases
            .get(name)
            .or_else(|| self.definitions.databases.get(&name.to_lowercase()));
        database.map(|database| Arc::clone(&database.info))
    }

    fn table(&self, database: &str, name: &str) -> Option<Arc<TableInfo>> {
        // Most names arrive in lower case already: look before allocating.
        let database = self
            .definitions
            .databases
            .get(database)
            .or_else(|| self.definitions.databases.get(&database.to_lowercase()))?;
        let table = database.tables.get(name).or_else(|| database.tables.get(&name.to_lowercase()));
        table.cloned()
    }

    fn databases(&self) -> Vec<Arc<DatabaseInfo>> {
        self.definitions.databases.values().map(|database| Arc::clone(&database.info)).collect()
    }

    fn tables(&self, database: &str) -> Vec<Arc<TableInfo>> {
        let database = self.definitions.databases.get(&database.to_lowercase());
        database.map(|database| database.tables.values().cloned().collect()).unwrap_or_default()
    }
}
