// Who wants to be told of something, and the telling.
//
//   Subscription heard = journal.on_change([] { ... });   // until `heard` is destroyed
//
// tell() calls every listener on the caller's thread, one tell() at a time, in the order of their coming. Ending a
// subscription blocks for a call that is under way; afterwards its listener is never called again. A Subscription may
// outlive its Listeners. A listener is quick and must neither throw, add or end a subscription here, nor tell here.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace ckptd {

/// Ends with its last copy.
using Subscription = std::shared_ptr<void>;

template <class... Args>
class Listeners {
 public:
  using Listener = std::function<void(Args...)>;

  [[nodiscard]] Subscription add(Listener listener) {
    std::scoped_lock lock(list_->mutex);
    auto at = list_->all.insert(list_->all.end(), std::move(listener));
    return Subscription(nullptr, [list = list_, at](void*) {
      std::scoped_lock leaving(list->mutex);
      list->all.erase(at);
    });
  }

  void tell(Args... args) const noexcept {
    std::scoped_lock lock(list_->mutex);
    for (const auto& listener : list_->all) listener(args...);
  }

 private:
  struct List {
    std::mutex mutex;
    std::list<Listener> all;
  };
  std::shared_ptr<List> list_ = std::make_shared<List>();
};

}  // namespace ckptd
