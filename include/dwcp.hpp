// libdwcp for C++17: the C interface as classes that free what they hold.
//
// Calls throw dwcp::Error; those that take std::nothrow return the status instead. Guests are
// classes with virtual functions, and an exception that one of them throws becomes the failure's
// text. Threads as in dwcp.h.
#ifndef DWCP_HPP
#define DWCP_HPP

#include "dwcp.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dwcp {

/// A call failed; what() holds the offending value.
class Error : public std::runtime_error {
public:
    Error(dwcp_status code, const std::string &text)
        : std::runtime_error(std::string(dwcp_status_name(code)) + ": " + text), code_(code) {}
    dwcp_status code() const noexcept { return code_; }

private:
    dwcp_status code_;
};

namespace detail {

/// Runs a text function until its buffer is large enough; other threads may make the text grow.
template <typename Call> dwcp_status text(std::string &out, Call call) {
    std::size_t needed = 0;
    dwcp_status code = call(nullptr, std::size_t(0), &needed);
    while (code == DWCP_OK) {
        out.resize(needed);
        code = call(&out[0], out.size(), &needed);
        if (code == DWCP_OK) {
            out.resize(needed - 1);
            return code;
        }
        if (code == DWCP_ERR_BUFFER_TOO_SMALL) code = DWCP_OK;
    }
    return code;
}

inline std::string last_error() {
    std::string out;
    return text(out, dwcp_last_error) == DWCP_OK ? out : std::string();
}

inline void check(dwcp_status code) {
    if (code != DWCP_OK) throw Error(code, last_error());
}

template <typename Call> std::string checked_text(Call call) {
    std::string out;
    check(text(out, call));
    return out;
}

/// Runs a guest's function inside a C callback: no exception may leave it.
template <typename Body> std::int32_t guarded(Body body) noexcept {
    try {
        return body();
    } catch (const Error &error) {
        (void)dwcp_callback_set_error(error.what());
        return error.code();
    } catch (const std::exception &error) {
        (void)dwcp_callback_set_error(error.what());
    } catch (...) {
        (void)dwcp_callback_set_error("an exception that is no std::exception");
    }
    return DWCP_ERR_CALLBACK;
}

template <typename Struct> Struct sized() noexcept {
    Struct value{};
    value.struct_size = sizeof(Struct);
    return value;
}

} // namespace detail

/// One region of guest memory, mapped in this process.
struct Region {
    std::string name;
    std::uint64_t guest_address;
    void *host;
    std::uint64_t length_bytes;
};

/// What becomes of a guest on this side; see DWCP_ENDING_.
enum class Ending : std::uint32_t {
    discard = DWCP_ENDING_DISCARD,
    keep = DWCP_ENDING_KEEP,
    undecided = DWCP_ENDING_UNDECIDED,
    lost = DWCP_ENDING_LOST,
};

/// Takes device state; see Source::save_device_state.
class Writer {
public:
    explicit Writer(dwcp_writer *writer) noexcept : writer_(writer) {}
    void write(const void *data, std::size_t length_bytes) {
        detail::check(dwcp_writer_write(writer_, data, length_bytes));
    }

private:
    dwcp_writer *writer_;
};

/// A running guest; its functions run on threads of the library. See dwcp_source.
class Source {
public:
    virtual ~Source() = default;
    virtual void start_dirty_log() = 0;
    virtual void fetch_dirty(std::uint32_t region, std::uint64_t *log, std::size_t words) = 0;
    virtual void pause() = 0;
    virtual void resume() = 0;
    virtual void save_device_state(Writer &) {}
    /// False: the guest cannot be held back.
    virtual bool throttle(std::uint32_t /* percent */) { return false; }
    /// The migration is over, and this is what becomes of the guest here.
    virtual void finish(Ending) {}
};

/// A running guest whose writes the kernel tracks; see dwcp_node_add_process_memory_source().
class TrackedSource {
public:
    virtual ~TrackedSource() = default;
    virtual void pause() = 0;
    virtual void resume() = 0;
    virtual void save_device_state(Writer &) {}
    virtual bool throttle(std::uint32_t /* percent */) { return false; }
    virtual void finish(Ending) {}
};

/// A stopped, empty guest; see dwcp_destination.
class Destination {
public:
    virtual ~Destination() = default;
    virtual void load_device_state(const void *state, std::size_t length_bytes) = 0;
    virtual void resume() = 0;
    virtual void finish(Ending) {}
};

/// Settings of one migration; a fresh one holds the defaults.
struct MigrationOptions : dwcp_migration_options {
    MigrationOptions() noexcept
        : dwcp_migration_options(detail::sized<dwcp_migration_options>()) {}
};

/// How modes of peers are chosen and what they change; a fresh one holds the defaults.
struct TransportOptions : dwcp_transport_options {
    TransportOptions() noexcept
        : dwcp_transport_options(detail::sized<dwcp_transport_options>()) {}
};

/// What holds for the paths of all migrations that leave a node; a fresh one holds the defaults.
struct PathOptions : dwcp_path_options {
    PathOptions() noexcept : dwcp_path_options(detail::sized<dwcp_path_options>()) {}
};

/// How pages go by RDMA; a fresh one holds the defaults.
struct RdmaOptions : dwcp_rdma_options {
    RdmaOptions() noexcept : dwcp_rdma_options(detail::sized<dwcp_rdma_options>()) {}
};

/// What a rollout may not exceed; a fresh one holds the defaults.
struct RollbackLimits : dwcp_rollback_limits {
    RollbackLimits() noexcept : dwcp_rollback_limits(detail::sized<dwcp_rollback_limits>()) {}
};

/// What a test of a path is to be; a fresh one holds the defaults.
struct TransportTestOptions : dwcp_transport_test_options {
    TransportTestOptions() noexcept
        : dwcp_transport_test_options(detail::sized<dwcp_transport_test_options>()) {}
};

/// What is to become of one feature flag; a fresh one sets nothing. It owns its texts.
class FlagChange {
public:
    /// flag: a DWCP_FLAG_.
    explicit FlagChange(std::uint32_t flag) : values_(detail::sized<dwcp_flag_change>()) {
        values_.flag = flag;
    }
    FlagChange &enabled(bool is_enabled) {
        values_.enabled = is_enabled ? 1 : 0;
        return set(DWCP_FLAG_CHANGE_ENABLED);
    }
    /// In percent, to four decimals.
    FlagChange &percent(double percent) {
        double parts = percent * 10000;
        bool is_one = parts >= 0 && parts <= 1000000;
        // What is no percentage is for the library to refuse.
        values_.rollout_ppm = is_one ? static_cast<std::uint32_t>(parts + 0.5) : UINT32_MAX;
        return set(DWCP_FLAG_CHANGE_ROLLOUT);
    }
    FlagChange &seed(std::uint64_t seed) {
        values_.seed = seed;
        return set(DWCP_FLAG_CHANGE_SEED);
    }
    /// In seconds since 1970; 0: never.
    FlagChange &expires_s(std::uint64_t seconds) {
        values_.expires_s = seconds;
        return set(DWCP_FLAG_CHANGE_EXPIRES);
    }
    /// Lists have commas between their names; see dwcp_flag_change.
    FlagChange &allow_list(std::string names) { return set(allow_list_, std::move(names)); }
    FlagChange &deny_list(std::string names) { return set(deny_list_, std::move(names)); }
    FlagChange &prerequisites(std::string names) { return set(prerequisites_, std::move(names)); }
    FlagChange &schedule(std::string schedule) { return set(schedule_, std::move(schedule)); }
    FlagChange &owner(std::string owner) { return set(owner_, std::move(owner)); }

    /// As C has it, for as long as this object lives unchanged.
    dwcp_flag_change c() const noexcept {
        dwcp_flag_change values = values_;
        values.allow_list = text(allow_list_);
        values.deny_list = text(deny_list_);
        values.prerequisites = text(prerequisites_);
        values.schedule = text(schedule_);
        values.owner = text(owner_);
        return values;
    }

private:
    using Text = std::optional<std::string>;
    static const char *text(const Text &text) noexcept { return text ? text->c_str() : nullptr; }
    FlagChange &set(std::uint32_t field) noexcept {
        values_.fields |= field;
        return *this;
    }
    FlagChange &set(Text &field, std::string value) {
        field = std::move(value);
        return *this;
    }

    dwcp_flag_change values_;
    Text allow_list_, deny_list_, prerequisites_, schedule_, owner_;
};

/// Answers again and again, in some nanoseconds, whether a unit has a feature. See dwcp_node_decider().
class Decider {
public:
    Decider() noexcept = default;
    explicit Decider(dwcp_decider *handle) noexcept : handle_(handle) {}
    Decider(Decider &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Decider &operator=(Decider &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Decider() { (void)dwcp_decider_free(handle_); }

    dwcp_decider *get() const noexcept { return handle_; }

    /// An empty one is off.
    bool is_on() const noexcept { return dwcp_decider_is_on(handle_) == 1; }
    explicit operator bool() const noexcept { return is_on(); }
    dwcp_flag_decision explain() const {
        auto decision = detail::sized<dwcp_flag_decision>();
        detail::check(dwcp_decider_explain(handle_, &decision));
        return decision;
    }

private:
    dwcp_decider *handle_ = nullptr;
};

/// A migration; the handle, not the migration, ends with the object.
class Migration {
public:
    Migration() noexcept = default;
    explicit Migration(dwcp_migration *handle) noexcept : handle_(handle) {}
    Migration(Migration &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Migration &operator=(Migration &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Migration() { (void)dwcp_migration_free(handle_); }

    dwcp_migration *get() const noexcept { return handle_; }

    /// How it ended; none if it still runs after the timeout.
    std::optional<dwcp_status> wait(std::chrono::milliseconds timeout) {
        dwcp_status ended = DWCP_OK;
        dwcp_status code = wait(timeout, ended, std::nothrow);
        if (code == DWCP_ERR_TIMEOUT) return std::nullopt;
        detail::check(code);
        return ended;
    }
    /// How it ended, however long that takes.
    dwcp_status wait() {
        dwcp_status ended = DWCP_OK;
        detail::check(dwcp_migration_wait(handle_, DWCP_FOREVER, &ended));
        return ended;
    }
    dwcp_status wait(std::chrono::milliseconds timeout, dwcp_status &ended,
                     std::nothrow_t) noexcept {
        auto count = timeout.count() < 0 ? 0 : static_cast<std::uint64_t>(timeout.count());
        return dwcp_migration_wait(handle_, count, &ended);
    }

    void cancel() { detail::check(dwcp_migration_cancel(handle_)); }
    dwcp_status cancel(std::nothrow_t) noexcept { return dwcp_migration_cancel(handle_); }
    void set_bandwidth_limit(std::uint64_t bytes_per_s) {
        detail::check(dwcp_migration_set_bandwidth_limit(handle_, bytes_per_s));
    }

    void start_post_copy() { detail::check(dwcp_migration_start_post_copy(handle_)); }
    void abandon_post_copy() { detail::check(dwcp_migration_abandon_post_copy(handle_)); }

    std::string id() const { return text(dwcp_migration_id); }
    std::string guest() const { return text(dwcp_migration_guest); }
    std::string reason() const { return text(dwcp_migration_reason); }
    std::string report_json() const { return text(dwcp_migration_report_json); }
    dwcp_progress progress() const {
        auto progress = detail::sized<dwcp_progress>();
        detail::check(dwcp_migration_progress(handle_, &progress));
        return progress;
    }
    dwcp_report report() const {
        auto report = detail::sized<dwcp_report>();
        detail::check(dwcp_migration_report(handle_, &report));
        return report;
    }
    std::uint32_t owner() const {
        std::uint32_t owner = 0;
        detail::check(dwcp_migration_owner(handle_, &owner));
        return owner;
    }
    std::uint32_t side() const {
        std::uint32_t side = 0;
        detail::check(dwcp_migration_side(handle_, &side));
        return side;
    }

private:
    using TextCall = dwcp_status (*)(const dwcp_migration *, char *, std::size_t, std::size_t *);
    std::string text(TextCall call) const {
        return detail::checked_text([&](char *buffer, std::size_t length, std::size_t *needed) {
            return call(handle_, buffer, length, needed);
        });
    }

    dwcp_migration *handle_ = nullptr;
};

/// How a node is set up; empty texts mean the default.
struct NodeOptions {
    std::string name;
    std::string listen;
    std::string state_dir;
    std::uint32_t event_level = DWCP_EVENTS_DEFAULT;
    std::uint32_t request_timeout_ms = 0;
    std::uint32_t flags = 0;
    std::uint64_t held_bytes = 0;
    std::string identity_dir;
    /// Separated by commas.
    std::string allowed_peers;
};

/// A node; its end stops it.
class Node {
public:
    explicit Node(const NodeOptions &options = NodeOptions()) {
        detail::check(open(options, handle_));
    }
    /// Throws nothing; on failure the result holds no node and code says why.
    static std::optional<Node> open(const NodeOptions &options, dwcp_status &code,
                                    std::nothrow_t) noexcept {
        dwcp_node *handle = nullptr;
        code = open(options, handle);
        if (code != DWCP_OK) return std::nullopt;
        return Node(handle);
    }
    Node(Node &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Node &operator=(Node &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Node() { (void)dwcp_node_free(handle_); }

    dwcp_node *get() const noexcept { return handle_; }

    void stop() { detail::check(dwcp_node_stop(handle_)); }
    std::string name() const { return text(dwcp_node_name); }
    std::string listen_address() const { return text(dwcp_node_listen_address); }
    std::string guests_json() const { return text(dwcp_node_guests_json); }
    std::string events_json(std::uint64_t after = 0, std::size_t limit = SIZE_MAX) const {
        return detail::checked_text([&](char *buffer, std::size_t length, std::size_t *needed) {
            return dwcp_node_events_json(handle_, after, limit, buffer, length, needed);
        });
    }
    int fd() const {
        int fd = -1;
        detail::check(dwcp_node_fd(handle_, &fd));
        return fd;
    }
    /// Takes out up to max completions.
    std::vector<dwcp_completion> reap(std::size_t max = 64) {
        std::vector<dwcp_completion> batch(max, detail::sized<dwcp_completion>());
        std::size_t count = 0;
        detail::check(dwcp_node_reap(handle_, batch.data(), batch.size(), &count));
        batch.resize(count);
        return batch;
    }
    void complete(std::uint64_t request, std::int32_t status = 0, const void *data = nullptr,
                  std::size_t length_bytes = 0) {
        detail::check(dwcp_request_complete(handle_, request, status, data, length_bytes));
    }

    void serve_control(const std::string &path) {
        detail::check(dwcp_node_serve_control(handle_, path.c_str()));
    }

    inline void add_source(const std::string &guest, std::shared_ptr<Source> source,
                           const std::vector<Region> &regions, std::uint32_t page_bytes = 0);
    inline void add_process_memory_source(const std::string &guest,
                                          std::shared_ptr<TrackedSource> source,
                                          const std::vector<Region> &regions);
    inline void add_destination(const std::string &guest, std::shared_ptr<Destination> destination,
                                const std::vector<Region> &regions, std::uint32_t page_bytes = 0);
    /// Guests that are driven by requests: see dwcp_node_reap().
    inline void add_source(const std::string &guest, const std::vector<Region> &regions,
                           std::uint32_t page_bytes = 0);
    inline void add_destination(const std::string &guest, const std::vector<Region> &regions,
                                std::uint32_t page_bytes = 0);
    /// The guest of an unmodified QEMU; see dwcp_node_attach_qemu().
    void attach_qemu(const std::string &guest, const std::string &qmp_path,
                     bool incoming = false) {
        detail::check(dwcp_node_attach_qemu(handle_, guest.c_str(), qmp_path.c_str(),
                                            incoming ? DWCP_QEMU_INCOMING : 0));
    }
    /// Lets go of pages that are kept of guests that left or came; see dwcp_node_clear_held().
    std::uint64_t clear_held(const std::string &guest = std::string(),
                             std::uint64_t older_than_s = 0) {
        std::uint64_t bytes = 0;
        const char *name = guest.empty() ? nullptr : guest.c_str();
        detail::check(dwcp_node_clear_held(handle_, name, older_than_s, &bytes));
        return bytes;
    }
    /// Has the path to a peer ("HOST:PORT") looked at from now on; see dwcp_node_add_peer().
    void add_peer(const std::string &peer) {
        detail::check(dwcp_node_add_peer(handle_, peer.c_str()));
    }
    void remove_peer(const std::string &peer) {
        detail::check(dwcp_node_remove_peer(handle_, peer.c_str()));
    }
    std::string peers_json() const { return text(dwcp_node_peers_json); }
    dwcp_peer peer(const std::string &peer) const {
        auto known = detail::sized<dwcp_peer>();
        detail::check(dwcp_node_peer(handle_, peer.c_str(), &known));
        return known;
    }
    /// Waits until a first verdict about a peer would hold.
    dwcp_peer detect_mode(const std::string &peer) {
        auto known = detail::sized<dwcp_peer>();
        detail::check(dwcp_node_detect_mode(handle_, peer.c_str(), &known));
        return known;
    }
    /// Forces a DWCP_MODE_ for a peer, or, if that is empty, for all; see dwcp_node_set_mode().
    void set_mode(std::uint32_t mode, const std::string &peer = std::string()) {
        const char *of = peer.empty() ? nullptr : peer.c_str();
        detail::check(dwcp_node_set_mode(handle_, of, mode));
    }
    /// Who may ask for the paths to this node's peers; see dwcp_node_share_paths_with().
    void share_paths_with(const std::string &networks) {
        detail::check(dwcp_node_share_paths_with(handle_, networks.c_str()));
    }
    dwcp_probe_series probe_peer(const std::string &peer, std::uint32_t count = 10) {
        auto series = detail::sized<dwcp_probe_series>();
        detail::check(dwcp_node_probe_peer(handle_, peer.c_str(), count, &series));
        return series;
    }
    void set_transport(const TransportOptions &options) {
        detail::check(dwcp_node_set_transport(handle_, &options));
    }
    TransportOptions transport() const {
        TransportOptions options;
        detail::check(dwcp_node_transport(handle_, &options));
        return options;
    }
    void set_paths(const PathOptions &options) {
        detail::check(dwcp_node_set_paths(handle_, &options));
    }
    PathOptions paths() const {
        PathOptions options;
        detail::check(dwcp_node_paths(handle_, &options));
        return options;
    }
    std::string flags_json() const { return text(dwcp_node_flags_json); }
    /// One feature flag, a DWCP_FLAG_, as it stands.
    dwcp_flag_state flag(std::uint32_t flag) const {
        auto state = detail::sized<dwcp_flag_state>();
        detail::check(dwcp_node_flag(handle_, flag, &state));
        return state;
    }
    /// Changes feature flags, all or none of them; who empty: this process. See dwcp_node_set_flags().
    void set_flags(const std::vector<FlagChange> &changes, const std::string &why,
                   const std::string &who = std::string()) {
        std::vector<dwcp_flag_change> list;
        for (const FlagChange &change : changes) list.push_back(change.c());
        detail::check(
            dwcp_node_set_flags(handle_, list.data(), list.size(), named(who), why.c_str()));
    }
    void set_flag(const FlagChange &change, const std::string &why,
                  const std::string &who = std::string()) {
        dwcp_flag_change values = change.c();
        detail::check(dwcp_node_set_flags(handle_, &values, 1, named(who), why.c_str()));
    }
    void disable_all_flags(const std::string &why, const std::string &who = std::string()) {
        detail::check(dwcp_node_disable_all_flags(handle_, named(who), why.c_str()));
    }
    /// Ends the rollback of a DWCP_FLAG_.
    void clear_latch(std::uint32_t flag, const std::string &why,
                     const std::string &who = std::string()) {
        detail::check(dwcp_node_clear_latch(handle_, flag, named(who), why.c_str()));
    }
    /// Every feature flag is off for everybody from here on; see dwcp_node_set_kill_switch().
    void throw_kill_switch(const std::string &why, const std::string &who = std::string()) {
        detail::check(dwcp_node_set_kill_switch(handle_, named(who), why.c_str()));
    }
    void lift_kill_switch(const std::string &who = std::string()) {
        detail::check(dwcp_node_set_kill_switch(handle_, named(who), nullptr));
    }
    /// Whether a unit has the feature of a DWCP_FLAG_, and why.
    dwcp_flag_decision explain_flag(std::uint32_t flag, const std::string &unit) const {
        auto decision = detail::sized<dwcp_flag_decision>();
        detail::check(dwcp_node_explain_flag(handle_, flag, unit.c_str(), &decision));
        return decision;
    }
    /// The newest changes of the feature flags, newest first.
    std::string flag_history_json(std::size_t limit = 20) const {
        return detail::checked_text([&](char *buffer, std::size_t length, std::size_t *needed) {
            return dwcp_node_flag_history_json(handle_, limit, buffer, length, needed);
        });
    }
    /// Lets a DWCP_FLAG_ grow by a schedule; empty: its own, or "guide". See dwcp_node_start_schedule().
    void start_schedule(std::uint32_t flag, const std::string &why,
                        const std::string &schedule = std::string(),
                        const std::string &who = std::string()) {
        detail::check(dwcp_node_start_schedule(handle_, flag, named(schedule), named(who),
                                               why.c_str()));
    }
    /// The percentage stays.
    void stop_schedule(std::uint32_t flag, const std::string &why,
                       const std::string &who = std::string()) {
        detail::check(dwcp_node_stop_schedule(handle_, flag, named(who), why.c_str()));
    }
    /// How the rollout of each flag stands, as the guards see it.
    std::string rollouts_json() const { return text(dwcp_node_rollouts_json); }
    RollbackLimits rollback_limits() const {
        RollbackLimits limits;
        detail::check(dwcp_node_rollback_limits(handle_, &limits));
        return limits;
    }
    void set_rollback_limits(const RollbackLimits &limits) {
        detail::check(dwcp_node_set_rollback_limits(handle_, &limits));
    }
    /// The nodes of which percentages are taken; see dwcp_node_set_rollout_members().
    void set_rollout_members(const std::vector<std::string> &members) {
        std::vector<const char *> names;
        for (const std::string &member : members) names.push_back(member.c_str());
        detail::check(dwcp_node_set_rollout_members(handle_, names.data(), names.size()));
    }
    Decider decider(std::uint32_t flag, const std::string &unit) {
        dwcp_decider *decider = nullptr;
        detail::check(dwcp_node_decider(handle_, flag, unit.c_str(), &decider));
        return Decider(decider);
    }
    void set_rdma(const RdmaOptions &options) {
        detail::check(dwcp_node_set_rdma(handle_, &options));
    }
    RdmaOptions rdma() const {
        RdmaOptions options;
        detail::check(dwcp_node_rdma(handle_, &options));
        return options;
    }
    /// What the path to a peer carries, or, if that is empty, the loopback.
    dwcp_transport_test
    test_transport(const std::string &peer = std::string(),
                   const TransportTestOptions &options = TransportTestOptions()) {
        auto test = detail::sized<dwcp_transport_test>();
        const char *to = peer.empty() ? nullptr : peer.c_str();
        detail::check(dwcp_node_test_transport(handle_, to, &options, &test));
        return test;
    }
    void remove_guest(const std::string &guest) {
        detail::check(dwcp_node_remove_guest(handle_, guest.c_str()));
    }

    Migration migrate(const std::string &guest, const std::string &to,
                      const MigrationOptions &options = MigrationOptions()) {
        Migration migration;
        detail::check(migrate(guest, to, options, migration, std::nothrow));
        return migration;
    }
    dwcp_status migrate(const std::string &guest, const std::string &to,
                        const MigrationOptions &options, Migration &migration,
                        std::nothrow_t) noexcept {
        dwcp_migration *handle = nullptr;
        dwcp_status code =
            dwcp_node_migrate(handle_, guest.c_str(), to.c_str(), &options, &handle);
        migration = Migration(handle);
        return code;
    }
    Migration migration(const std::string &id) {
        dwcp_migration *handle = nullptr;
        detail::check(dwcp_node_migration(handle_, id.c_str(), &handle));
        return Migration(handle);
    }

private:
    explicit Node(dwcp_node *handle) noexcept : handle_(handle) {}

    static dwcp_status open(const NodeOptions &from, dwcp_node *&handle) noexcept {
        auto options = detail::sized<dwcp_node_options>();
        auto text = [](const std::string &text) { return text.empty() ? nullptr : text.c_str(); };
        options.name = text(from.name);
        options.listen = text(from.listen);
        options.state_dir = text(from.state_dir);
        options.event_level = from.event_level;
        options.request_timeout_ms = from.request_timeout_ms;
        options.flags = from.flags;
        options.held_bytes = from.held_bytes;
        options.identity_dir = text(from.identity_dir);
        options.allowed_peers = text(from.allowed_peers);
        return dwcp_node_new(&options, &handle);
    }
    static const char *named(const std::string &text) noexcept {
        return text.empty() ? nullptr : text.c_str();
    }
    using TextCall = dwcp_status (*)(const dwcp_node *, char *, std::size_t, std::size_t *);
    std::string text(TextCall call) const {
        return detail::checked_text([&](char *buffer, std::size_t length, std::size_t *needed) {
            return call(handle_, buffer, length, needed);
        });
    }

    dwcp_node *handle_ = nullptr;
};

namespace detail {

inline std::vector<dwcp_region> c_regions(const std::vector<Region> &regions) {
    std::vector<dwcp_region> out;
    for (const Region &region : regions) {
        auto c = sized<dwcp_region>();
        c.name = region.name.c_str();
        c.guest_address = region.guest_address;
        c.host = region.host;
        c.length_bytes = region.length_bytes;
        out.push_back(c);
    }
    return out;
}

template <typename Guest> Guest &guest(void *ctx) noexcept {
    return **static_cast<std::shared_ptr<Guest> *>(ctx);
}

/// The callbacks that every class of guest has.
template <typename Guest, typename Table> void common_callbacks(Table &table) noexcept {
    table.drop = [](void *ctx) { delete static_cast<std::shared_ptr<Guest> *>(ctx); };
    table.resume = [](void *ctx) -> std::int32_t {
        return guarded([&] { return guest<Guest>(ctx).resume(), 0; });
    };
    table.finish = [](void *ctx, std::uint32_t ending) -> std::int32_t {
        return guarded([&] { return guest<Guest>(ctx).finish(static_cast<Ending>(ending)), 0; });
    };
}

/// The callbacks that both classes of source have.
template <typename Guest> dwcp_source source_callbacks() noexcept {
    auto table = sized<dwcp_source>();
    common_callbacks<Guest>(table);
    table.pause = [](void *ctx) -> std::int32_t {
        return guarded([&] { return guest<Guest>(ctx).pause(), 0; });
    };
    table.save_device_state = [](void *ctx, dwcp_writer *handle) -> std::int32_t {
        return guarded([&] {
            Writer writer(handle);
            return guest<Guest>(ctx).save_device_state(writer), 0;
        });
    };
    table.throttle = [](void *ctx, std::uint32_t percent) -> std::int32_t {
        return guarded(
            [&] { return guest<Guest>(ctx).throttle(percent) ? DWCP_OK : DWCP_ERR_UNSUPPORTED; });
    };
    return table;
}

/// Registers a guest; the library owns the reference if it accepts.
template <typename Guest, typename Table, typename Add>
void add_guest(dwcp_node *node, const std::string &name, std::shared_ptr<Guest> guest,
               const std::vector<Region> &regions, Table &table, Add add) {
    if (!guest && table.resume) throw Error(DWCP_ERR_NULL_POINTER, "guest \"" + name + "\" is null");
    auto list = c_regions(regions);
    table.regions = list.data();
    table.region_count = list.size();
    std::unique_ptr<std::shared_ptr<Guest>> ctx;
    if (guest) ctx = std::make_unique<std::shared_ptr<Guest>>(std::move(guest));
    table.ctx = ctx.get();
    check(add(node, name.c_str(), &table));
    (void)ctx.release();
}

} // namespace detail

inline void Node::add_source(const std::string &guest, std::shared_ptr<Source> source,
                             const std::vector<Region> &regions, std::uint32_t page_bytes) {
    auto table = detail::source_callbacks<Source>();
    table.page_bytes = page_bytes;
    table.start_dirty_log = [](void *ctx) -> std::int32_t {
        return detail::guarded([&] { return detail::guest<Source>(ctx).start_dirty_log(), 0; });
    };
    table.fetch_dirty = [](void *ctx, std::uint32_t region, std::uint64_t *log,
                           std::size_t words) -> std::int32_t {
        return detail::guarded(
            [&] { return detail::guest<Source>(ctx).fetch_dirty(region, log, words), 0; });
    };
    detail::add_guest(handle_, guest, std::move(source), regions, table, dwcp_node_add_source);
}

inline void Node::add_process_memory_source(const std::string &guest,
                                            std::shared_ptr<TrackedSource> source,
                                            const std::vector<Region> &regions) {
    auto table = detail::source_callbacks<TrackedSource>();
    detail::add_guest(handle_, guest, std::move(source), regions, table,
                      dwcp_node_add_process_memory_source);
}

inline void Node::add_destination(const std::string &guest,
                                  std::shared_ptr<Destination> destination,
                                  const std::vector<Region> &regions, std::uint32_t page_bytes) {
    auto table = detail::sized<dwcp_destination>();
    detail::common_callbacks<Destination>(table);
    table.page_bytes = page_bytes;
    table.load_device_state = [](void *ctx, const void *state,
                                 std::size_t length_bytes) -> std::int32_t {
        return detail::guarded([&] {
            return detail::guest<Destination>(ctx).load_device_state(state, length_bytes), 0;
        });
    };
    detail::add_guest(handle_, guest, std::move(destination), regions, table,
                      dwcp_node_add_destination);
}

inline void Node::add_source(const std::string &guest, const std::vector<Region> &regions,
                             std::uint32_t page_bytes) {
    auto table = detail::sized<dwcp_source>();
    table.page_bytes = page_bytes;
    detail::add_guest(handle_, guest, std::shared_ptr<Source>(), regions, table,
                      dwcp_node_add_source);
}

inline void Node::add_destination(const std::string &guest, const std::vector<Region> &regions,
                                  std::uint32_t page_bytes) {
    auto table = detail::sized<dwcp_destination>();
    table.page_bytes = page_bytes;
    detail::add_guest(handle_, guest, std::shared_ptr<Destination>(), regions, table,
                      dwcp_node_add_destination);
}

} // namespace dwcp

#endif
