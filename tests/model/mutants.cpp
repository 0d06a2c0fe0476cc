#include <model/mutants.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <tuple>
#include <utility>

namespace ouro::model {
namespace {

bool matches(const Site& site, std::string_view function, std::string_view operation) {
  return site.operation == operation && site.function.find(function) != std::string::npos;
}

// The sites of all models, in the order of the source, each once.
std::vector<Site> merge(std::vector<Site> all) {
  const auto key = [](const Site& site) { return std::tie(site.file, site.line, site.column, site.operation); };
  std::sort(all.begin(), all.end(), [&](const Site& a, const Site& b) { return key(a) < key(b); });
  all.erase(std::unique(all.begin(), all.end(), [&](const Site& a, const Site& b) { return key(a) == key(b); }),
            all.end());
  return all;
}

const Site* find(const std::vector<Site>& sites, std::string_view function, std::string_view operation, unsigned nth) {
  for (const Site& site : sites) {
    if (matches(site, function, operation) && nth-- == 0) return &site;
  }
  return nullptr;
}

bool needs_site(const Mutation& mutation) {
  return mutation.what != Mutate::custom && mutation.what != Mutate::no_wake;
}

std::vector<Site> survey(const std::vector<Model>& models) {
  std::vector<Site> sites;
  for (const Model& model : models) {
    Options options = model.options;
    options.preemptions = std::min(options.preemptions, 2U);
    const Report report = explore(options, model.program);
    EXPECT_FALSE(report.failed) << model.name << " " << report.summary();
    sites.insert(sites.end(), report.sites.begin(), report.sites.end());
  }
  return merge(std::move(sites));
}

const char* name_of(std::memory_order order) {
  static constexpr std::array<const char*, 6> names{"relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst"};
  return names[static_cast<std::size_t>(order)];
}

// One step weaker, of what the operation may have.
std::vector<std::memory_order> weaker(std::memory_order order, std::string_view operation) {
  switch (order) {
    case std::memory_order_seq_cst:
      if (operation == "load") return {std::memory_order_acquire};
      if (operation == "store") return {std::memory_order_release};
      return {std::memory_order_acq_rel};
    case std::memory_order_acq_rel:
      return {std::memory_order_acquire, std::memory_order_release};
    case std::memory_order_relaxed:
      return {};
    default:
      return {std::memory_order_relaxed};
  }
}

// Which of the operations of its kind in its function a site is.
unsigned number_of(const std::vector<Site>& sites, const Site& site) {
  unsigned number = 0;
  for (const Site& other : sites) {
    if (&other == &site) break;
    if (matches(other, site.function, site.operation)) ++number;
  }
  return number;
}

// Adds each order of the sites made one step weaker, but for those excused.
void add_weakened(std::vector<Mutant>& mutants, const std::vector<Site>& sites, const std::vector<Excuse>& excuses,
                  const std::vector<std::string_view>& files) {
  std::vector<bool> used(excuses.size());
  for (const Site& site : sites) {
    if (std::find(files.begin(), files.end(), site.file) == files.end()) continue;
    const auto add = [&](Mutate what, std::memory_order from, std::memory_order to) {
      for (std::size_t i = 0; i < excuses.size(); ++i) {
        const Excuse& excuse = excuses[i];
        if (excuse.what == what && excuse.order == to &&
            find(sites, excuse.function, excuse.operation, excuse.nth) == &site) {
          used[i] = true;
          return;
        }
      }
      const std::string name = site.file + ":" + std::to_string(site.line) + " " + site.operation + ", " +
                               (what == Mutate::weaken ? "" : "when it fails ") + name_of(from) + " -> " + name_of(to);
      mutants.push_back({name, {what, site.function, site.operation, number_of(sites, site), to}});
    };
    for (const std::memory_order to : weaker(site.order, site.operation)) add(Mutate::weaken, site.order, to);
    if (!site.fails) continue;
    for (const std::memory_order to : weaker(site.failure, "load")) add(Mutate::weaken_failure, site.failure, to);
  }
  for (std::size_t i = 0; i < excuses.size(); ++i) {
    EXPECT_TRUE(used[i]) << "an excuse for nothing: " << excuses[i].function << " " << excuses[i].operation;
  }
}

void expect_places(const std::vector<Mutant>& mutants, const std::vector<Site>& sites) {
  for (const Mutant& mutant : mutants) {
    const Mutation& m = mutant.mutation;
    if (!needs_site(m)) continue;
    EXPECT_TRUE(find(sites, m.function, m.operation, m.nth)) << "no such place: the mutant " << mutant.name;
  }
}

// The first of the models that fails with the mutant, at the lowest bound that lets one fail; or nullptr.
const Model* kill(const Mutant& mutant, const std::vector<Model>& models, const std::vector<Site>& sites,
                  unsigned& bound, Report& death) {
  for (bound = 0; bound <= 3; ++bound) {
    for (const Model& model : models) {
      if (bound > model.options.preemptions) continue;
      Options options = model.options;
      options.preemptions = bound;
      options.mutation = &mutant.mutation;
      options.sites = &sites;
      death = explore(options, model.program);
      if (death.failed) return &model;
    }
  }
  return nullptr;
}

}  // namespace

void expect_correct(const std::vector<Model>& models) {
  const char* const more = std::getenv("OURO_MODEL_MORE");
  for (const Model& model : models) {
    Options options = model.options;
    if (more) {
      options.preemptions += static_cast<unsigned>(std::strtoul(more, nullptr, 10));
      options.executions_max *= 100;
    }
    const Report report = explore(options, model.program);
    EXPECT_FALSE(report.failed) << model.name << " " << report.summary();
    EXPECT_TRUE(report.failed || report.complete) << model.name << " " << report.summary();
    std::printf("%s: preemption bound %u, %s\n", model.name, options.preemptions, report.summary().c_str());
    std::fflush(stdout);
  }
}

unsigned expect_killed(const std::vector<Model>& models, std::vector<Mutant> mutants,
                       const std::vector<Excuse>& excuses, const std::vector<std::string_view>& files) {
  const std::vector<Site> sites = survey(models);
  expect_places(mutants, sites);
  add_weakened(mutants, sites, excuses, files);
  unsigned enough = 0;
  for (const Mutant& mutant : mutants) {
    unsigned bound = 0;
    Report death;
    const Model* killer = kill(mutant, models, sites, bound, death);
    EXPECT_TRUE(killer) << "the mutant survives: " << mutant.name;
    if (!killer) continue;
    enough = std::max(enough, bound);
    const std::string why = death.message.substr(0, death.message.find(':'));
    std::printf("  killed at bound %u, execution %llu of \"%s\": %s (%s)\n", bound,
                static_cast<unsigned long long>(death.executions), killer->name, mutant.name.c_str(), why.c_str());
  }
  std::printf("%zu mutants, bound %u kills them\n", mutants.size(), enough);
  return enough;
}

}  // namespace ouro::model
