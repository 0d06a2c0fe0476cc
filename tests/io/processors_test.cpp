// How many processors the process may use: its affinity, and the quotas of its control groups, in trees made for it.
#include "cgroup.hpp"

#include <gtest/gtest.h>

#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include <ouro/io/processors.hpp>

namespace ouro {
namespace {

namespace fs = std::filesystem;

class CgroupTest : public testing::Test {
 protected:
  CgroupTest() { fs::create_directories(root_); }
  ~CgroupTest() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  std::optional<std::size_t> limit() { return detail::cgroup_processors(root_ / "membership", root_ / "mount"); }

 private:
  const fs::path root_ = fs::temp_directory_path() / ("ouro-cgroup-" + std::to_string(::getpid()));
};

TEST_F(CgroupTest, WithoutFilesNothingLimits) {
  EXPECT_EQ(limit(), std::nullopt);
  write("membership", "0::/\n");
  EXPECT_EQ(limit(), std::nullopt);
  write("membership", "nonsense\n:\n");
  EXPECT_EQ(limit(), std::nullopt);
}

TEST_F(CgroupTest, TheLeastQuotaOnTheWayUpHolds) {
  write("membership", "0::/user.slice/app.service\n");
  write("mount/user.slice/app.service/cpu.max", "max 100000\n");
  EXPECT_EQ(limit(), std::nullopt);
  write("mount/user.slice/cpu.max", "350000 100000\n");
  EXPECT_EQ(limit(), 4U) << "three and a half are four";
  write("mount/user.slice/app.service/cpu.max", "200000 100000\n");
  EXPECT_EQ(limit(), 2U);
  write("mount/cpu.max", "50000 100000\n");
  EXPECT_EQ(limit(), 1U);
}

TEST_F(CgroupTest, AContainerSeesItsOwnGroupAsTheMount) {
  write("membership", "0::/../../somewhere/else\n");
  write("mount/cpu.max", "150000 100000\n");
  EXPECT_EQ(limit(), 2U);
}

TEST_F(CgroupTest, VersionOneHasATreeForTheController) {
  write("membership", "5:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/box\n");
  write("mount/cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
  write("mount/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limit(), std::nullopt);
  write("mount/cpu,cpuacct/box/cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(limit(), 3U);
  write("membership", "4:cpuacct,cpuset:/box\n");
  EXPECT_EQ(limit(), std::nullopt) << "that is another controller";
}

TEST(ProcessCpuCount, FollowsTheAffinity) {
  std::thread([] {
    EXPECT_GE(process_cpu_count(), 1U);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
    EXPECT_EQ(process_cpu_count(), 1U);
  }).join();
}

}  // namespace
}  // namespace ouro
