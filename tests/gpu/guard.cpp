// CUDA devices that do nothing, for builds of torch without CUDA: with these guards and hooks
// registered, `torch.device("cuda:1")` passes torch's device checks and has autograd. The tensors
// themselves come from fake.py. To be loaded before torch's Python module, which caches the hooks.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>

namespace {

std::atomic<int> devices{1};
thread_local c10::DeviceIndex current = 0;

c10::Device device(c10::DeviceIndex index) {
  return {c10::DeviceType::CUDA, index};
}

struct Guard final : public c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::DeviceType::CUDA;

  c10::DeviceType type() const override { return static_type; }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(devices.load());
  }
  c10::Device getDevice() const override { return device(current); }
  void uncheckedSetDevice(c10::Device to) const noexcept override {
    if (to.has_index()) current = to.index();
  }
  void setDevice(c10::Device to) const override { uncheckedSetDevice(to); }
  c10::Device exchangeDevice(c10::Device to) const override {
    const c10::Device before = device(current);
    uncheckedSetDevice(to);
    return before;
  }

  // All work is done when a call returns, so that streams and events have nothing to wait for.
  c10::Stream getStream(c10::Device of) const override {
    return c10::Stream(c10::Stream::DEFAULT, device(of.has_index() ? of.index() : current));
  }
  c10::Stream getDefaultStream(c10::Device of) const override { return getStream(of); }
  c10::Stream getNewStream(c10::Device of, int) const override { return getStream(of); }
  c10::Stream getStreamFromGlobalPool(c10::Device of, bool) const override { return getStream(of); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    static int made;
    *event = &made;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};

struct CUDAHooks final : public at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}

  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override {
    return static_cast<c10::DeviceIndex>(devices.load());
  }
  int getNumGPUs() const override { return devices.load(); }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  c10::DeviceIndex current_device() const override { return current; }
};

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace

extern "C" void fake_gpu_count(int count) {
  devices.store(count);
}
extern "C" void fake_gpu_select(int index) {
  current = static_cast<c10::DeviceIndex>(index);
}
extern "C" int fake_gpu_selected() {
  return current;
}
