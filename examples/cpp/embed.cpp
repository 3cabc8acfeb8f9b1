// Embeds an image: embed MODEL.onnx PIXELS.rgb HEIGHT WIDTH, where the pixels are rows of red, green, blue bytes.
// c++ -std=c++17 embed.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o embed
#include <onnxruntime_c_api.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

static const OrtApi* ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);

static void check(OrtStatus* status) {
  if (status) std::cerr << ort->GetErrorMessage(status) << "\n", std::exit(1);
}

int main(int count, char** words) {
  if (count != 5) return std::cerr << "embed MODEL.onnx PIXELS.rgb HEIGHT WIDTH\n", 2;
  std::ifstream file(words[2], std::ios::binary);
  std::vector<char> pixels{std::istreambuf_iterator<char>(file), {}};
  const int64_t shape[] = {1, std::atoll(words[3]), std::atoll(words[4]), 3};

  OrtEnv* environment;
  OrtSessionOptions* options;
  OrtSession* session;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "embed", &environment));
  check(ort->CreateSessionOptions(&options));
  check(ort->AddSessionConfigEntry(options, "session.x64quantprecision", "1"));  // int8 on x86 without VNNI
  check(ort->CreateSession(environment, words[1], options, &session));

  OrtMemoryInfo* memory;
  OrtValue *image, *embedding = nullptr;
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->CreateTensorWithDataAsOrtValue(memory, pixels.data(), pixels.size(), shape, 4,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &image));
  const char *in[] = {"image"}, *out[] = {"embedding"};
  check(ort->Run(session, nullptr, in, &image, 1, out, 1, &embedding));

  OrtTensorTypeAndShapeInfo* about;
  size_t dim;
  float* vector;
  check(ort->GetTensorTypeAndShape(embedding, &about));
  check(ort->GetTensorShapeElementCount(about, &dim));
  check(ort->GetTensorMutableData(embedding, reinterpret_cast<void**>(&vector)));
  for (size_t i = 0; i < dim; ++i) std::cout << vector[i] << "\n";
}
