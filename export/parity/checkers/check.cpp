// Check an ONNX file against this parity pack by onnxruntime's C API, as applications for Android and iOS may use it.
//
//   c++ -std=c++17 check.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o check
//   ./check ../pixels/model.onnx fp32 .
//
// The images are read as decoded pixels; decode your own by the platform's decoder.

#include <onnxruntime_c_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The oldest version of the C API that has all that is used here, so that older and newer libraries do.
const OrtApi* const api = OrtGetApiBase()->GetApi(11);

void require(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct Case {
  std::string pixels;
  int64_t height;
  int64_t width;
};

// Return the embedding of one image, uint8 (height, width, 3).
std::vector<float> embed(OrtSession* session, const OrtMemoryInfo* memory, std::vector<char>& pixels,
                         const Case& image) {
  const int64_t shape[] = {1, image.height, image.width, 3};
  OrtValue* input = nullptr;
  require(api->CreateTensorWithDataAsOrtValue(memory, pixels.data(), pixels.size(), shape, 4,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
  const char* const inputs[] = {"image"};
  const char* const outputs[] = {"embedding"};
  OrtValue* output = nullptr;
  require(api->Run(session, nullptr, inputs, &input, 1, outputs, 1, &output));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t count = 0;
  float* values = nullptr;
  require(api->GetTensorTypeAndShape(output, &info));
  require(api->GetTensorShapeElementCount(info, &count));
  require(api->GetTensorMutableData(output, reinterpret_cast<void**>(&values)));
  std::vector<float> found(values, values + count);
  api->ReleaseTensorTypeAndShapeInfo(info);
  api->ReleaseValue(output);
  api->ReleaseValue(input);
  return found;
}

// Return the distance of two vectors; infinite where one is not a number.
double distance(const std::vector<float>& found, const float* expected) {
  double apart = 0;
  for (size_t i = 0; i < found.size(); ++i) apart += std::pow(double(found[i]) - expected[i], 2);
  return std::isnan(apart) ? std::numeric_limits<double>::infinity() : std::sqrt(apart);
}

int run(const std::string& model, const std::string& precision, const std::string& pack) {
  size_t dim = 0;
  double unit = 0;
  double limit = 0;
  std::vector<Case> images;
  std::vector<char> expected;
  std::ifstream cases(pack + "/cases.txt");
  for (std::string word, name; cases >> word;) {
    if (word == "dim") {
      cases >> dim;
    } else if (word == "image") {
      Case image;
      cases >> image.pixels >> image.height >> image.width;
      images.push_back(image);
    } else {
      std::string file;
      double length = 0;
      double tolerance = 0;
      cases >> name >> file >> length >> tolerance;
      if (name != precision) continue;
      expected = read(pack + "/" + file);
      unit = length;
      limit = tolerance;
    }
  }
  if (dim == 0 || expected.size() != images.size() * dim * sizeof(float))
    throw std::runtime_error("no vectors for " + precision + " in " + pack);

  OrtEnv* environment = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
  require(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "parity", &environment));
  require(api->CreateSessionOptions(&options));
  require(api->CreateSession(environment, model.c_str(), options, &session));
  require(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  bool passed = true;
  for (size_t i = 0; i < images.size(); ++i) {
    std::vector<char> pixels = read(pack + "/" + images[i].pixels);
    if (pixels.size() != size_t(images[i].height * images[i].width * 3))
      throw std::runtime_error(images[i].pixels + " has another size than cases.txt says");
    const std::vector<float> found = embed(session, memory, pixels, images[i]);
    const float* wanted = reinterpret_cast<const float*>(expected.data()) + i * dim;
    const double apart = found.size() == dim ? distance(found, wanted) / unit : std::numeric_limits<double>::infinity();
    passed = passed && apart <= limit;
    std::printf("%-6s %-14s distance %.2e (at most %.1e)\n", apart <= limit ? "ok" : "FAILED",
                images[i].pixels.c_str(), apart, limit);
  }
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(environment);
  return passed ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: check MODEL.onnx fp32|fp16|int8 [PACK]\n");
    return 2;
  }
  try {
    return run(words[1], words[2], count > 3 ? words[3] : ".");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
