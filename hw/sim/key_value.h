// Settings as text, one "key=value" on each line; a key may come more than once.
#pragma once

#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

class KeyValue {
  public:
    explicit KeyValue(const std::string& text) {
        std::istringstream lines(text);
        for (std::string line; std::getline(lines, line);) {
            const size_t equals = line.find('=');
            if (equals == std::string::npos) throw std::runtime_error("setting must be key=value, not " + line);
            values_[line.substr(0, equals)].push_back(line.substr(equals + 1));
        }
    }

    bool has(const std::string& key) const { return values_.count(key) != 0; }
    std::vector<std::string> all(const std::string& key) const { return has(key) ? values_.at(key) : std::vector<std::string>{}; }

    std::string text(const std::string& key) const {
        if (!has(key)) throw std::runtime_error("setting must be given: " + key);
        return values_.at(key).back();
    }

    long long integer(const std::string& key) const { return std::stoll(text(key)); }
    double real(const std::string& key) const { return std::stod(text(key)); }

  private:
    std::map<std::string, std::vector<std::string>> values_;
};
