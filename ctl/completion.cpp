#include "ctl/completion.h"

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "ctl/client.h"

namespace ckptd::ctl {
namespace {

/// A person waits for the Tab key: whoever answers later than this is not there.
constexpr std::chrono::milliseconds kPatience{700};

/// Names that the daemon knows. Whatever goes wrong, there are none.
class Names {
 public:
  explicit Names(const std::string& socket) : client_(socket, stop_.get_token()) {}

  std::vector<std::string> of(Stands what) {
    switch (what) {
      case Stands::version: return each(client_.versions(), [](const auto& v) { return v.name + "@" + v.version; });
      case Stands::checkpoint: return each(client_.versions(), [](const auto& version) { return version.name; });
      case Stands::engine: return each(client_.engines(), [](const auto& engine) { return engine.name; });
      case Stands::job: return each(client_.jobs(), [](const auto& job) { return job.id; });
      case Stands::device: return devices();
      case Stands::subject: return subjects();
      default: return {};
    }
  }

 private:
  template <class T>
  static std::vector<std::string> each(const Result<Answer<std::vector<T>>>& answer,
                                       const std::function<std::string(const T&)>& name) {
    std::set<std::string> names;
    if (answer)
      for (const auto& one : answer->value) names.insert(name(one));
    return {names.begin(), names.end()};
  }
  template <class T, class Name>
  static std::vector<std::string> each(const Result<Answer<std::vector<T>>>& answer, Name name) {
    return each(answer, std::function<std::string(const T&)>(name));
  }

  std::vector<std::string> devices() const {
    std::vector<std::string> names;
    if (auto status = client_.status())
      for (const auto& device : status->value.devices) names.push_back(device.uuid);
    return names;
  }

  std::vector<std::string> subjects() const {
    auto names = each(client_.jobs(), [](const auto& job) { return "job/" + job.id; });
    auto engines = each(client_.engines(), [](const auto& engine) { return "engine/" + engine.name; });
    names.insert(names.end(), engines.begin(), engines.end());
    return names;
  }

  std::stop_source stop_;
  Client client_;
  std::mutex mutex_;
  std::condition_variable_any ended_;
  std::jthread timer_{[this](std::stop_token done) {
    std::unique_lock lock(mutex_);
    ended_.wait_for(lock, done, kPatience, [] { return false; });
    stop_.request_stop();
  }};
};

/// A name that would be two words, or drive the terminal, is nobody's.
bool is_one_word(const std::string& name) {
  return !name.empty() && std::ranges::all_of(name, [](unsigned char c) { return c > 0x20 && c != 0x7f; });
}

}  // namespace

std::vector<std::string> candidates(const Expected& expected) {
  if (expected.what == Stands::file) return {":file"};
  if (expected.what == Stands::directory) return {":directory"};
  auto words = expected.words;
  if (expected.what == Stands::engine_kind) 
    words.assign(proto::control::kEngineKinds.begin(), proto::control::kEngineKinds.end());
  if (expected.what == Stands::shell) words = {"bash", "fish", "zsh"};
  if (words.empty() && expected.what != Stands::free) words = Names(expected.socket).of(expected.what);
  std::vector<std::string> fitting;
  for (const auto& word : words)
    if (word.starts_with(expected.typed) && is_one_word(word)) fitting.push_back(expected.before + word);
  return fitting;
}

Result<std::string_view> completion_script(std::string_view shell) {
  if (shell == "bash")
    return R"sh(# bash completion for ckptctl, written by: ckptctl completion bash
_ckptctl() {
  local line=${COMP_LINE:0:COMP_POINT} words=() candidates=() word breaks kept=
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  word=${words[${#words[@]}-1]}
  mapfile -t candidates < <("$1" __complete "${words[@]:1}" 2>/dev/null)
  case ${candidates[0]-} in
    :file)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$word")
      return ;;
    :directory)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$word")
      return ;;
  esac
  # readline replaces only what is behind the last of its word breaks, and @ and = are such.
  breaks=${COMP_WORDBREAKS//[^@=:]/}
  [[ -n $breaks && $word == *[$breaks]* ]] && kept=${word%"${word##*[$breaks]}"}
  COMPREPLY=("${candidates[@]#"$kept"}")
}
complete -F _ckptctl ckptctl
)sh";
  if (shell == "zsh")
    return R"sh(#compdef ckptctl
# zsh completion for ckptctl, written by: ckptctl completion zsh
_ckptctl() {
  local -a candidates
  candidates=(${(f)"$($words[1] __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  case ${candidates[1]-} in
    :file) _files ;;
    :directory) _files -/ ;;
    *) compadd -- $candidates ;;
  esac
}
_ckptctl "$@"
)sh";
  if (shell == "fish")
    return R"sh(# fish completion for ckptctl, written by: ckptctl completion fish
function __ckptctl_candidates
    set -l words (commandline -opc)
    set -l candidates ($words[1] __complete $words[2..-1] (commandline -ct) 2>/dev/null)
    switch "$candidates[1]"
        case ':file' ':directory'
            __fish_complete_path (commandline -ct)
        case '*'
            string join \n -- $candidates
    end
end
complete -c ckptctl -f -a '(__ckptctl_candidates)'
)sh";
  return fail(ErrorKind::invalid_argument, "there is no completion for '{}'; there is bash, fish and zsh", shell);
}

}  // namespace ckptd::ctl
