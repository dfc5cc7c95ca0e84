import jakarta.persistence.CascadeType;
import jakarta.persistence.Column;
import jakarta.persistence.Entity;
import jakarta.persistence.FetchType;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.GenerationType;
import jakarta.persistence.Id;
import jakarta.persistence.LockModeType;
import jakarta.persistence.ManyToMany;
import jakarta.persistence.ManyToOne;
import jakarta.persistence.OneToMany;
import jakarta.persistence.OrderBy;
import jakarta.persistence.Version;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.hibernate.SessionFactory;
import org.hibernate.cfg.Configuration;
import org.hibernate.exception.ConstraintViolationException;

/** Hibernate (over Connector/J): makes the schema, updates it, and reads and writes it in transactions. */
public final class OrmHibernate {
    private static final String DATABASE = "orm_hibernate";
    private static final String ADDRESS = "jdbc:mysql://127.0.0.1:" + System.getenv("CAIRN_PORT") + "/";

    /** Has many books. */
    @Entity(name = "Author")
    public static class Author {
        @Id
        @GeneratedValue(strategy = GenerationType.IDENTITY)
        Long id;

        @Column(length = 100, unique = true, nullable = false)
        String name;

        LocalDate born;

        @OneToMany(mappedBy = "author", cascade = CascadeType.PERSIST)
        @OrderBy("title")
        Set<Book> books = new LinkedHashSet<>();

        Author() {}

        Author(String name) {
            this.name = name;
        }
    }

    /** Has one author and many tags; the version refuses a lost update. */
    @Entity(name = "Book")
    public static class Book {
        @Id
        @GeneratedValue // A table of sequence values: MySQL has no sequences.
        Long id;

        @Version
        int version;

        @Column(nullable = false)
        String title;

        @Column(precision = 10, scale = 2)
        BigDecimal price;

        LocalDateTime written;
        boolean printed;

        @ManyToOne(fetch = FetchType.LAZY, optional = false)
        Author author;

        @ManyToMany(cascade = CascadeType.PERSIST)
        Set<Tag> tags = new java.util.HashSet<>();

        Book() {}

        Book(String title, String price, Author author) {
            this.title = title;
            this.price = new BigDecimal(price);
            this.author = author;
            author.books.add(this);
        }
    }

    /** Is on many books. */
    @Entity(name = "Tag")
    public static class Tag {
        @Id
        @GeneratedValue(strategy = GenerationType.IDENTITY)
        Long id;

        @Column(length = 50, unique = true)
        String name;

        @ManyToMany(mappedBy = "tags")
        Set<Book> books = new java.util.HashSet<>();

        Tag() {}

        Tag(String name) {
            this.name = name;
        }
    }

    private OrmHibernate() {}

    /** Runs everything; an exception is the failure. */
    public static void main(String[] arguments) throws SQLException {
        onServer("DROP DATABASE IF EXISTS " + DATABASE);
        onServer("CREATE DATABASE " + DATABASE);
        try (SessionFactory factory = open("create-only")) {
            create(factory);
        }
        try (SessionFactory factory = open("update")) { // Reads the schema back and finds it whole.
            read(factory);
            update(factory);
            refuse(factory);
        }
        open("validate").close();
        onServer("DROP DATABASE " + DATABASE);
    }

    private static SessionFactory open(String schemaAction) {
        return new Configuration()
                .addAnnotatedClass(Author.class)
                .addAnnotatedClass(Book.class)
                .addAnnotatedClass(Tag.class)
                .setProperty("hibernate.connection.url", ADDRESS + DATABASE + "?sslMode=DISABLED")
                .setProperty("hibernate.connection.username", "root")
                .setProperty("hibernate.connection.password", "")
                .setProperty("hibernate.hbm2ddl.auto", schemaAction)
                .setProperty("hibernate.hbm2ddl.halt_on_error", "true")
                .buildSessionFactory();
    }

    private static void create(SessionFactory factory) {
        factory.inTransaction(session -> {
            Author ann = new Author("Ann");
            ann.born = LocalDate.of(1970, 1, 2);
            Book one = new Book("One", "9.99", ann);
            one.written = LocalDateTime.of(2024, 2, 29, 1, 2, 3, 456789000);
            one.printed = true;
            one.tags.addAll(List.of(new Tag("classic"), new Tag("short")));
            new Book("Two", "20.00", ann);
            session.persist(ann);
            session.persist(new Author("Bob"));
            session.persist(new Author("Cid"));
        });
    }

    private static void read(SessionFactory factory) {
        Author ann = factory.fromSession(session -> session.createQuery(
                        "from Author a left join fetch a.books b left join fetch b.tags where a.name = :name",
                        Author.class)
                .setParameter("name", "Ann")
                .getSingleResult());
        expect(ann.books.stream().map(book -> book.title).toList(), List.of("One", "Two"), "books of Ann");
        Book one = ann.books.iterator().next();
        expect(names(one.tags), "[classic, short]", "tags of One");
        expect(one.price, new BigDecimal("9.99"), "price");
        expect(one.written, LocalDateTime.of(2024, 2, 29, 1, 2, 3, 456789000), "date and time");
        expect(one.printed, true, "boolean");

        List<String> counts = factory.fromSession(session -> session.createQuery(
                        "select a.name || ' ' || count(b) from Author a left join a.books b group by a.id, a.name"
                                + " order by a.name",
                        String.class)
                .list());
        expect(counts, List.of("Ann 2", "Bob 0", "Cid 0"), "books by author");

        List<String> page = factory.fromSession(session -> session.createQuery(
                        "select title from Book b where b.price > (select avg(price) from Book) or exists"
                                + " (select 1 from b.tags t where t.name = 'short') order by title desc",
                        String.class)
                .setMaxResults(1)
                .list());
        expect(page, List.of("Two"), "first page");
    }

    private static void update(SessionFactory factory) {
        try {
            factory.inTransaction(session -> {
                book(session, "One").price = BigDecimal.ONE;
                session.flush();
                throw new IllegalStateException("rolled back on purpose");
            });
        } catch (IllegalStateException expected) {
            expect(expected.getMessage(), "rolled back on purpose", "the exception");
        }
        factory.inTransaction(session -> {
            Book one = book(session, "One");
            expect(one.price, new BigDecimal("9.99"), "price after rollback");
            session.lock(one, LockModeType.PESSIMISTIC_WRITE);
            one.title = "Uno";
            session.createMutationQuery("update Book set price = price * 2 where title = 'Two'").executeUpdate();
        });
        factory.inTransaction(session -> {
            expect(book(session, "Two").price, new BigDecimal("40.00"), "doubled");
            expect(book(session, "Uno").version, 1, "version");
            session.remove(book(session, "Uno"));
        });
        long left = factory.fromSession(
                session -> session.createQuery("select count(*) from Book", Long.class).getSingleResult());
        expect(left, 1L, "books left");
    }

    /** Foreign keys are declared, and not enforced by this version: only the unique key refuses. */
    private static void refuse(SessionFactory factory) {
        try {
            factory.inTransaction(session -> session.persist(new Author("Ann")));
        } catch (ConstraintViolationException error) {
            expect(error.getErrorCode(), 1062, "second Ann");
            return;
        }
        throw new AssertionError("a second Ann");
    }

    private static Book book(org.hibernate.Session session, String title) {
        return session.createQuery("from Book where title = :title", Book.class)
                .setParameter("title", title)
                .getSingleResult();
    }

    private static String names(Set<Tag> tags) {
        return tags.stream().map(tag -> tag.name).collect(Collectors.toCollection(TreeSet::new)).toString();
    }

    private static void onServer(String sql) throws SQLException {
        try (Connection connection = DriverManager.getConnection(ADDRESS + "?sslMode=DISABLED", "root", "");
                Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    private static void expect(Object got, Object want, String what) {
        if (!Objects.equals(got, want)) {
            throw new AssertionError(what + ": got " + got + ", want " + want);
        }
    }
}
